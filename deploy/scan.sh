#!/bin/sh
# What the images are built from, to build/sbom/*.cdx.json (CycloneDX), and what PyPI knows of its vulnerabilities: ends
# with 1 if there is one, or if PyPI did not answer for a package. Run it before a release and every week after it.
set -eu
cd "$(dirname "$0")/.."

python3 -m venv build/scan
build/scan/bin/python -m pip install --quiet cyclonedx-bom==7.5.0 pip-audit==2.10.1
mkdir -p build/sbom
for target in cpu gpu build; do
    build/scan/bin/cyclonedx-py requirements --pyproject pyproject.toml --mc-type application --output-reproducible \
        --output-file "build/sbom/segdepth-$target.cdx.json" "deploy/requirements-$target.txt"
done
status=0
for target in cpu gpu build; do
    # Without --strict it would end with 0 also when it could ask about no package.
    build/scan/bin/pip-audit --strict --require-hashes --disable-pip -r "deploy/requirements-$target.txt" || status=1
done
exit $status
