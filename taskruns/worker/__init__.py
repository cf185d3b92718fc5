"""The worker process: `clock` looks up what is due in the database, `lanes` are its threads, `queue` takes messages.

The database decides what to do, so the worker also works while the queue is down. A message only makes the clock look
at once. The jobs themselves are in `taskruns/jobs.py`.
"""
