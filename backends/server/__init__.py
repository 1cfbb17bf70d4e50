"""An OpenAI-compatible endpoint over a loaded model: routes, and what a request becomes under the scheduler.

`service.py` is the contract: from a request that was read to runs that share forwards. `app.py` has the routes.
"""
