"""One benchmark at a time on a device."""

import signal
import subprocess
import sys

import pytest

from skd_bench.errors import UserError
from skd_bench.remote.device_lock import DeviceLock


def test_a_lock_is_released_and_taken_only_from_a_process_with_the_same_token(tmp_path):
    with DeviceLock("a", folder=tmp_path):
        for other in (DeviceLock("b", folder=tmp_path), DeviceLock("b", "token", folder=tmp_path)):
            with pytest.raises(UserError, match="started by a"):
                other.__enter__()
    code = (
        "import sys, time; from skd_bench.remote.device_lock import DeviceLock\n"
        "with DeviceLock('orphan', sys.argv[1], folder=sys.argv[2]): print('held', flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", code, "our token", tmp_path]
    orphan = subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True)
    assert orphan.stdout.readline() == b"held\n"
    with pytest.raises(UserError, match="started by orphan"):
        DeviceLock("b", "another token", folder=tmp_path).__enter__()
    assert orphan.poll() is None
    with DeviceLock("b", "our token", folder=tmp_path):
        assert orphan.wait(10) == -signal.SIGKILL
    with DeviceLock("c", folder=tmp_path):  # the file of a killed holder is not a lock
        pass


def test_a_lock_file_cannot_point_elsewhere(tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / "skd-bench.lock").symlink_to(victim)
    with pytest.raises(UserError, match="cannot open the device's lock file"):
        DeviceLock("a", folder=tmp_path).__enter__()
    assert victim.read_text() == "precious"
