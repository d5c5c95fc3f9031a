"""Holds the job files of `sluice cluster kubernetes` against Kubernetes' published schemas, unknown keys refused.

    python kubernetes.py job.yaml
"""
import sys

import kubernetes_validate
import yaml

from checks import Checks

# The least in which jobs have a limit of failures for each index, and the newest that is known.
VERSIONS = ["1.33", kubernetes_validate.latest_version()]


def main():
    checks = Checks("kubernetes")
    with open(sys.argv[1], encoding="utf-8") as file:
        documents = list(yaml.safe_load_all(file))
    checks.check(len(documents) == 2, f"{len(documents)} jobs, one that works and one that merges")
    for document in documents:
        name = document["metadata"]["name"]
        for version in VERSIONS:
            try:
                kubernetes_validate.validate(document, version, strict=True)
                checks.check(True, f"{name} is as the schema of {version} has it")
            except kubernetes_validate.ValidationError as error:
                checks.check(False, f"{name}, by the schema of {version}: {error.message}")
    sys.exit(1 if checks.failed else 0)


main()
