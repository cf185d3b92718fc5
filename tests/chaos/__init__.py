"""`make chaos`: the panel's real processes while Arize, the database, the queue and the processes themselves fail.

    make chaos                                     # 10 minutes on SQLite: 1 web process, 1 worker
    python -m tests.chaos --seconds 40 --seed 7    # a short one
    python -m tests.chaos --database postgres://postgres@127.0.0.1/postgres --queue redis:
                                                   # 2 web processes, 3 workers, own database and own Redis
    python -m tests.chaos --without jump,blip      # leave out kinds of disturbances (`plan.Kind`)

CHAOS_MINUTES, CHAOS_SEED, CHAOS_DATABASE and CHAOS_QUEUE set the same. `--database` is a server on which a new database
may be created. `--queue redis:` starts a redis-server. Exit code: 0 all promises are kept, 1 one is broken, 2 could not
run.

A seed decides the whole plan: every disturbance with its time, whom it hits, which kills, clicks and batches there are,
how long each run lives and how it takes a cancel (`python -m tests.chaos --seed 7 --show-plan`). What happens between
the processes is as in production: the same seed repeats the plan, not each race.

- `plan.py`: from seed and duration to the plan.
- `arize.py`: a fake Arize, independent of the panel and its sandbox. It keeps its own truth about each run, and when a
  cancel arrives, it looks into the panel's database (`database.py`) for the committed `requested` row.
- `panel.py`, `people.py`: the processes, and people who click in them.
- `driver.py`: carries out the plan, lets everything settle, and collects a `Record` (`record.py`).
- `judge.py`: compares the record with what the panel promises, without any process. `test_judge.py` shows that it finds
  each broken promise; `test_planted.py` plants mistakes into real processes.

The rate limit is counted so: all requests with a key that arrive in 58 seconds (the panel counts whole seconds, and a
call may arrive later than it was counted), without cancels (POST), and without reading a run again after its cancel was
refused or its answer was lost: once, for a run of a batch up to six times.
"""
