"""How a probe is made and checked: tasks, graders, collecting, fitting, evaluation, and the `ctl` command."""
