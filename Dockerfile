# syntax=docker/dockerfile:1
# Two images: the agent's, and the monthly review's, which has libraries that draw. glibc (the driver's library is linked
# against it), no compiler, no package manager, uid 65532.
# Pin the base for a release: BASE=python:3.11-slim-bookworm@sha256:…
ARG BASE=python:3.11-slim-bookworm

FROM ${BASE} AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /src
COPY requirements.lock requirements-build.lock ./
# What runs has no pip of its own: that of the base installs into it.
RUN python -m venv --without-pip /opt/roofline-agent \
 && pip --python /opt/roofline-agent/bin/python install --require-hashes --only-binary :all: -r requirements.lock \
 && pip install --require-hashes --only-binary :all: -r requirements-build.lock
COPY pyproject.toml README.md LICENSE ./
COPY agent agent
# Built by the base's python, which has what builds it; what runs has it not.
RUN pip wheel --no-deps --no-build-isolation --wheel-dir /wheels . \
 && pip --python /opt/roofline-agent/bin/python install --no-deps --no-index /wheels/*.whl \
 && python -m compileall -q --invalidation-mode unchecked-hash /opt/roofline-agent
COPY deploy/image/sbom.py /src/sbom.py
RUN /opt/roofline-agent/bin/python /src/sbom.py > /sbom.cdx.json

FROM build AS build-report
COPY requirements-report.lock ./
RUN pip --python /opt/roofline-agent/bin/python install --require-hashes --only-binary :all: \
      -r requirements.lock -r requirements-report.lock \
 && python -m compileall -q --invalidation-mode unchecked-hash /opt/roofline-agent \
 && /opt/roofline-agent/bin/python /src/sbom.py > /sbom.cdx.json

# make sbom: what is in them, as CycloneDX.
FROM scratch AS sbom
COPY --from=build /sbom.cdx.json /sbom.cdx.json
COPY --from=build-report /sbom.cdx.json /sbom-report.cdx.json

FROM ${BASE} AS base
# Neither pip nor what it would build with.
RUN pip uninstall --yes --quiet --root-user-action=ignore setuptools wheel pip \
 && rm -rf /usr/local/lib/python3.11/ensurepip /root/.cache
COPY LICENSE /usr/share/licenses/roofline-agent/LICENSE
ARG VERSION=0.1.0
ARG REVISION=unknown
ARG CREATED=unknown
LABEL org.opencontainers.image.title="roofline-agent" \
      org.opencontainers.image.description="Says, live and honestly, what bounds each GPU of a node" \
      org.opencontainers.image.source="https://github.com/roofline-agent/roofline-agent" \
      org.opencontainers.image.documentation="https://github.com/roofline-agent/roofline-agent/blob/main/docs/deployment.md" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.created="${CREATED}" \
      org.opencontainers.image.base.name="python:3.11-slim-bookworm"
# Nothing is written: modules are compiled already, and the root may be read-only.
ENV PATH=/opt/roofline-agent/bin:/usr/local/bin:/usr/bin:/bin \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
WORKDIR /
USER 65532:65532
STOPSIGNAL SIGTERM
ENTRYPOINT ["roofline-agent"]

# The monthly review: no GPU is seen, and what matplotlib keeps is kept where anything may be written.
FROM base AS report
COPY --from=build-report /opt/roofline-agent /opt/roofline-agent
COPY --from=build-report /sbom.cdx.json /usr/share/sbom/roofline-agent.cdx.json
LABEL org.opencontainers.image.title="roofline-agent-report" \
      org.opencontainers.image.description="Writes the monthly review of what GPUs did and cost"
ENV MPLCONFIGDIR=/tmp \
    NVIDIA_VISIBLE_DEVICES=void
CMD ["report", "--help"]

FROM base AS image
COPY --from=build /opt/roofline-agent /opt/roofline-agent
COPY --from=build /sbom.cdx.json /usr/share/sbom/roofline-agent.cdx.json
# All GPUs are to be seen, and of the driver only what reads them.
ENV NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=utility
EXPOSE 10095
CMD ["run"]
