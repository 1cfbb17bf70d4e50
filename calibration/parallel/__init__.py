"""The same jobs here, in processes or on machines; results come in order."""
