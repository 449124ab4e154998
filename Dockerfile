# The service in a container.
#
#     docker build -t segdepth:cpu .                 (or --target cpu)
#     docker build -t segdepth:gpu --target gpu .    (the host needs an NVIDIA driver for CUDA 13: 580 or newer)
#
# The CPU image is the default because it starts everywhere; the GPU image refuses to start without a GPU. Both stand
# on the same slim Python: CUDA and cuDNN come as wheels, only the libraries that ONNX Runtime loads.
# Dependencies and the project are separate layers, so that a new version moves megabytes and not the CUDA libraries.
# Everything from PyPI is checked against the hashes of deploy/requirements-*.txt (deploy/lock.sh writes them).
# The stages' order spares the classic builder, which builds every stage up to its target, the GPU's wheels.

# To pin it: --build-arg BASE=python:3.11-slim@sha256:...
ARG BASE=python:3.11-slim


FROM ${BASE} AS builder
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /src
# The base's pip installs into it, so none needs to be inside.
RUN python3 -m venv --without-pip /opt/segdepth


FROM builder AS app
COPY deploy/requirements-build.txt requirements.txt
RUN python3 -m venv --without-pip /opt/build \
    && python3 -m pip --python /opt/build/bin/python3 install --require-hashes -r requirements.txt
# A compiler that pip can install and check; for any processor of its kind, not for this machine's alone.
ENV CC="/opt/build/bin/python3 -m ziglang cc -mcpu=baseline"
COPY pyproject.toml hatch_build.py README.md LICENSE NOTICE ./
COPY service service
COPY model model
COPY training training
COPY deploy deploy
RUN python3 -m pip --python /opt/build/bin/python3 wheel --no-build-isolation --no-deps --wheel-dir /wheel . \
    && python3 -m pip --python /opt/segdepth/bin/python3 install --no-deps --no-index --prefix /app /wheel/*.whl


FROM ${BASE} AS runtime
RUN groupadd --gid 10001 segdepth \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin --no-log-init segdepth
ENV PATH=/opt/segdepth/bin:$PATH \
    HOME=/tmp \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
WORKDIR /
USER 10001:10001
EXPOSE 8000
STOPSIGNAL SIGTERM
# Alive, not ready: something that restarts an unhealthy container must not do so while the model warms up.
HEALTHCHECK --interval=15s --timeout=10s --start-period=60s CMD ["python3", "-m", "deploy.health", "live"]
ENTRYPOINT ["segdepth", "serve", "--host", "0.0.0.0"]
ARG BASE
LABEL org.opencontainers.image.title="segdepth" \
      org.opencontainers.image.description="Semantic segmentation and metric depth of rooms over HTTP." \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.base.name="${BASE}"


FROM builder AS dependencies-cpu
COPY deploy/requirements-cpu.txt requirements.txt
RUN python3 -m pip --python /opt/segdepth/bin/python3 install --require-hashes -r requirements.txt


FROM runtime AS cpu
COPY --from=dependencies-cpu /opt/segdepth /opt/segdepth
COPY --from=app /app /opt/segdepth
ARG REVISION=unknown
LABEL org.opencontainers.image.revision="${REVISION}"


FROM builder AS dependencies-gpu
COPY deploy/requirements-gpu.txt requirements.txt
RUN python3 -m pip --python /opt/segdepth/bin/python3 install --require-hashes -r requirements.txt


FROM runtime AS gpu
# What the NVIDIA container toolkit brings in from the host's driver.
ENV NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    SEGDEPTH_DEVICE=cuda
COPY --from=dependencies-gpu /opt/segdepth /opt/segdepth
COPY --from=app /app /opt/segdepth
ARG REVISION=unknown
LABEL org.opencontainers.image.revision="${REVISION}"


FROM cpu
