"""Real workers, a simulated Arize with faults, and power cuts: every run still comes to a true end."""

from pathlib import Path

from .bulk_world import FAULTS, world


def test_200_runs_with_faults_come_to_a_true_end(committed: None, tmp_path: Path, settings) -> None:
    with world(tmp_path, rate=100) as here:
        runs = here.add_runs(200)
        here.fail(*FAULTS)
        batch = here.batch(runs)
        here.start_worker()
        here.wait_for(batch, within=60)
        assert here.faults_of(batch) == []
