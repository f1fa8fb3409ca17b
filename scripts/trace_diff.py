#!/usr/bin/env python3
"""First divergence between two traces: python3 scripts/trace_diff.py RUST CPP

RUST and CPP are run directories (run=<name>), databases (their newest run is taken), or folders of .trace
files, one JSON object a line or one a file, which are compared by hash and rms. The comparison is
`bitnet-diff first`; this script finds or builds that program and passes everything else on, so that there is
one comparison and one set of exit codes: 0 match, 1 divergence, 2 error.
"""

import os
import pathlib
import shutil
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
EXIT_ERROR = 2


def program():
    """The bitnet-diff to run: $BITNET_DIFF, this tree's newest build, the one on PATH, or a new build."""
    if os.environ.get("BITNET_DIFF"):
        return os.environ["BITNET_DIFF"]
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    builds = [p for p in (target / k / "bitnet-diff" for k in ("release", "debug")) if p.is_file()]
    if builds:
        return max(builds, key=lambda p: p.stat().st_mtime)
    if shutil.which("bitnet-diff"):
        return shutil.which("bitnet-diff")
    print("trace_diff: building bitnet-diff (once)", file=sys.stderr)
    build = ["cargo", "build", "--release", "--package", "bitnet-diff", "--manifest-path", ROOT / "Cargo.toml"]
    try:
        subprocess.run(build, check=True, stdout=sys.stderr)
    except (OSError, subprocess.CalledProcessError) as error:
        sys.exit(fail(f"bitnet-diff could not be built ({error}); build it or set BITNET_DIFF to its path"))
    return target / "release" / "bitnet-diff"


def fail(message):
    print(f"trace_diff: {message}", file=sys.stderr)
    return EXIT_ERROR


def main(args):
    if any(a in ("-h", "--help") for a in args):
        print(__doc__)
        return 0
    paths = [a for a in args if not a.startswith("-")]
    if len(paths) < 2:
        return fail("two traces are needed: python3 scripts/trace_diff.py RUST CPP")
    try:
        code = subprocess.run([program(), "first", *args, "--labels", "Rust,C++"], check=False).returncode
    except OSError as error:
        return fail(f"bitnet-diff could not be run: {error}")
    return code if code in (0, 1, EXIT_ERROR) else fail(f"bitnet-diff ended with code {code}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
