"""Read the JSON report of coverage from stdin and print a line for each folder of the package."""

import json
import sys
from collections import Counter, defaultdict
from pathlib import PurePath


def main() -> None:
    """Print how many lines and branches each folder has, and what share of them the tests execute."""
    folders: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for path, file in json.load(sys.stdin)["files"].items():
        numbers = Counter({name: value for name, value in file["summary"].items() if isinstance(value, int)})
        folders[f"{PurePath(path).parent}/"] += numbers
        folders["total"] += numbers
    total = folders.pop("total")
    print(f"{'folder':40} {'lines':>7} {'missed':>7} {'branches':>9} {'missed':>7} {'covered':>8}")
    for name, numbers in [*sorted(folders.items()), ("total", total)]:
        lines, branches = numbers["num_statements"], numbers["num_branches"]
        covered = (numbers["covered_lines"] + numbers["covered_branches"]) / (lines + branches or 1)
        missed = numbers["missing_lines"], numbers["missing_branches"]
        print(f"{name:40} {lines:7} {missed[0]:7} {branches:9} {missed[1]:7} {covered:8.1%}")


if __name__ == "__main__":
    main()
