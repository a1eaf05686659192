"""Runs over files whose workers, readers and servers die: each file ends once, and is asked about once."""

from __future__ import annotations

from pathlib import Path

import pytest

from kagura_tasks import LLMClient
from kagura_tasks.errors import RedisUnreachable
from tests.support import files
from tests.support.chaos import Scene, freeze, thaw
from tests.support.wait import until

FILES = 120


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Many small files, and some that take a parser."""
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(FILES):
        if number % 4:
            (folder / f"{number:03}.md").write_text(f"# File {number}\n\nwords\n")
        else:
            (folder / f"{number:03}.pdf").write_bytes(files.pdf([f"File {number}"]))
    return folder


def allowed(folder: Path) -> dict[str, str]:
    return {"KAGURA_TASKS_FILE_ROOTS": str(folder)}


@pytest.mark.timeout(240)
def test_every_file_survives_the_death_of_all_workers(scene: Scene, folder: Path):
    """Those that load, and those that ask, are killed in the middle; others go on where they were."""
    scene.stub.script(echoes=True, delay_s=0.05)
    client = LLMClient(scene.settings.override(file_roots=str(folder)))
    killed = [
        *scene.workers(1, "asyncio", queues="files", environment=allowed(folder)),
        *scene.workers(1, "threads", queues="llm.batch"),
    ]
    result = client.process_files(folder, "Sum up.", max_in_flight=16)
    until(lambda: result.progress().settled > FILES // 3, 60, "a third of the files")
    for worker in killed:
        worker.kill9()
    assert result.progress().settled < FILES
    scene.workers(1, "threads", queues="files,llm.batch", environment=allowed(folder))
    outcomes = result.get(timeout_s=120)
    assert [one.row.status for one in outcomes] == ["ok"] * FILES
    assert [one.path for one in outcomes] == sorted(one.path for one in outcomes)
    assert len(scene.calls()) == FILES
    assert sum(scene.calls().values()) <= FILES + 16
    assert result.progress().in_flight == 0
    scene.until_settled()


@pytest.mark.timeout(240)
def test_a_frozen_worker_that_comes_back_hands_nothing_on(scene: Scene, folder: Path):
    """Its files were loaded by others: each goes on once, and is asked about once."""
    scene.stub.script(echoes=True)
    client = LLMClient(scene.settings)
    (frozen,) = scene.workers(1, "asyncio", queues="files")
    result = client.process_files(folder, "Sum up.", max_in_flight=32)
    until(lambda: scene.redis.scard(f"kagura:map:{scene.settings.tenant}:{result.id}:loaded") > 3, 30, "some files")
    freeze(frozen)
    scene.workers(1, "asyncio", queues="files,llm.batch")
    until(lambda: result.progress().settled == FILES, 90, "all files")
    thaw(frozen)
    scene.until_settled()
    assert [one.row.status for one in result.get()] == ["ok"] * FILES
    assert sum(scene.calls().values()) == FILES


@pytest.mark.timeout(240)
def test_a_server_that_restarts_loses_no_file(scene: Scene, folder: Path):
    """Workers wait for it, as a client does that reads; what it had written to its disk is there again."""
    scene.stub.script(echoes=True, delay_s=0.02)
    client = LLMClient(scene.settings)
    scene.workers(1, "asyncio", queues="files,llm.batch")
    result = client.process_files(folder, "Sum up.", max_in_flight=16)
    until(lambda: result.progress().settled > FILES // 4, 60, "a quarter of the files")
    scene.server.restart()
    assert [one.row.status for one in result.get(timeout_s=120)] == ["ok"] * FILES
    assert len(scene.calls()) == FILES


def test_a_server_that_is_away_is_told_of_before_anything_is_sent(scene: Scene, folder: Path):
    """Nothing was asked; the files are where they were."""
    scene.server.kill()
    with pytest.raises(RedisUnreachable):
        LLMClient(scene.settings).process_files(folder, "Sum up.")
    scene.server.restart()
