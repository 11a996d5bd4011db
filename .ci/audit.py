"""Are there published vulnerabilities in the pinned packages? `make audit`.

Asks PyPI's advisories for every line of requirements.txt, with pip-audit. Exit codes: 0, all were looked up and none is
known to be vulnerable; 1, some are; 3, advisories could not be had for some or all of them, which is no all-clear.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

PIP_AUDIT = "pip-audit==2.10.1"
REQUIREMENTS = Path(__file__).parents[1] / "requirements.txt"
SHOWN = 5


def judged(report: dict[str, Any]) -> tuple[int, list[str]]:
    """What pip-audit's JSON says: an exit code, and lines to print."""
    packages = report["dependencies"]
    vulnerable = [one for one in packages if one.get("vulns")]
    skipped = [one["name"] for one in packages if "skip_reason" in one]
    lines = [
        f"{one['name']} {one['version']}: {vuln['id']}, mended in {', '.join(vuln['fix_versions']) or 'no release yet'}"
        for one in vulnerable
        for vuln in one["vulns"]
    ]
    if skipped or not packages:
        names = ", ".join(skipped[:SHOWN]) + (" ..." if len(skipped) > SHOWN else "")
        lines.append(
            f"no advisories for {len(skipped)} of {len(packages)} packages could be had ({names}): not audited"
        )
    if not lines:
        lines.append(f"{len(packages)} packages, no known vulnerability")
    return (1 if vulnerable else 3 if skipped or not packages else 0), lines


def main() -> int:
    uv = Path(sys.executable).with_name("uv")
    command = [uv, "tool", "run", "--quiet", PIP_AUDIT, "--requirement", REQUIREMENTS, "--no-deps", "--disable-pip"]
    found = subprocess.run(
        [*command, "--format", "json", "--progress-spinner", "off"], capture_output=True, text=True, check=False
    )
    try:
        code, lines = judged(json.loads(found.stdout))
    except (ValueError, KeyError):
        # pip-audit stops at the first package where the service can't be reached.
        why = next((line for line in reversed(found.stderr.splitlines()) if line.strip()), "no answer")
        code, lines = 3, [f"no advisories could be had ({why.strip()[:200]}): not audited"]
    for line in lines:
        print(f"audit: {line}")
    return code


if __name__ == "__main__":
    sys.exit(main())
