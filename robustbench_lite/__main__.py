"""`python -m robustbench_lite`: the same command as `rbl`."""

from robustbench_lite.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
