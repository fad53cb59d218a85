# Shorthand for ./dev, which does the work.
COMMANDS := demo test coverage lint format types imports stubs docs citations package audit lock
.PHONY: $(COMMANDS)
$(COMMANDS):
	./dev $@
