"""Renders the chart as `helm template` does, by Helm's own engine; in a process of its own, for it brings Go's runtime.

Reads from stdin, as JSON, the chart's folder and cases {values, upgrade, name}; writes for each {manifests} or {error},
and what `helm lint --strict` finds with the values of the first.
"""

from __future__ import annotations

import json
import sys

import helm_python as helm


def main() -> None:
    """All cases of one run."""
    asked = json.load(sys.stdin)
    results: list[dict[str, object]] = []
    with helm.Chart.load(asked["chart"]) as chart:
        for case in asked["cases"]:
            upgrade = case["upgrade"]
            try:
                manifests = chart.render(
                    case["values"], name=case["name"], namespace="keys", is_install=not upgrade, is_upgrade=upgrade
                )
                results.append({"manifests": manifests})
            except helm.HelmError as error:
                results.append({"error": str(error)})
    lint = helm.lint(asked["chart"], asked["cases"][0]["values"], strict=True, kube_version="v1.29.0")
    json.dump({"results": results, "lint": lint}, sys.stdout)


if __name__ == "__main__":
    main()
