# Shorthand for ./dev, which does the work.
COMMANDS := demo test lint format types imports stubs package lock
.PHONY: $(COMMANDS)
$(COMMANDS):
	./dev $@
