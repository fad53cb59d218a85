"""The JSON inside the attested channel, for all three generations of guests (wire-eaa.md).

1. `conversation.Conversation` turns plaintext into typed requests (`reader`, `messages`).
2. `broker.requests` fulfils a request and returns a typed result.
3. `answers.encode` encodes the result.

Nothing here has IO, a clock or a broker.
"""
