"""What a rule does, next to cheap rules and to no rule."""
