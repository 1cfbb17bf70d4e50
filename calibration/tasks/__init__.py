"""Questions, answers and graders."""
