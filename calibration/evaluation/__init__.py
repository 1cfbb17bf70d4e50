"""What a rule does, next to baseline rules and to no rule."""
