"""Commands that ask what changes answers that shouldn't: one file a command, and what they share."""
