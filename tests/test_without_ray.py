"""The package and runs in this process on a machine where Ray is not installed."""

from __future__ import annotations

import subprocess
import sys
import textwrap


def test_a_run_in_this_process_needs_no_ray(tmp_path):
    program = """
        import sys

        class NoRay:
            def find_spec(self, name, path=None, target=None):
                if name.partition(".")[0] == "ray":
                    raise ModuleNotFoundError(f"No module named {name!r}", name=name)

        sys.meta_path.insert(0, NoRay())
        import raysim

        config = {"rounds": 1, "population": {"clients": 4}, "data": {"name": "digits", "limit": 100},
                  "defense": {"name": "median"}, "server_data": {"samples": 10}}
        result = raysim.run(config, name="bare", out=sys.argv[1], backend="inprocess")
        assert len(result.rounds) == 1
        slow = {"torch._dynamo", "sklearn"} & set(sys.modules)
        assert not slow, "more than a second of every process that runs"
        from raysim.cli.main import main

        sys.argv = ["raysim", "bench", "gpu", "--rehearse", "krum", "layercam_ae", "--threads", "1"]
        try:
            main()
        except SystemExit as end:
            assert not end.code, end.code
        assert "ray" not in sys.modules
        print("done")
    """
    command = [sys.executable, "-c", textwrap.dedent(program), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "all 2 defenses judge alike" in done.stdout
    assert done.stdout.endswith("done\n")
