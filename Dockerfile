# The service on Debian: Python, what it depends on, the byte code of what it imports, the bundled checkpoint, the source,
# a layer each, so that a change of source is a push of the last one.
#
#   docker build -t leximind .
#   docker run --rm -p 127.0.0.1:8000:8000 leximind
#
# The page to try it, and the service beside it:
#
#   docker build --target demo --build-arg EXTRAS=serve,demo -t leximind-demo .
#   docker run --rm -p 127.0.0.1:7860:7860 leximind-demo
#
# Any Debian or Ubuntu with Python 3.11 to 3.14 will do: --build-arg BASE_IMAGE=debian:bookworm-slim.
# pip's own configuration, such as a package index of yours, reaches the build without staying in it:
#   docker build --secret id=pip,src=pip.conf -t leximind .
ARG BASE_IMAGE=debian:trixie-slim

FROM ${BASE_IMAGE} AS base
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates python3 \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/cache/debconf/*-old /var/log/* \
    && groupadd --gid 10001 leximind \
    && useradd --uid 10001 --gid leximind --create-home --shell /usr/sbin/nologin leximind

FROM base AS build
# The compiler of the native kernels and pip stay behind, whatever their versions.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ python3-pip \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /build

FROM build AS requirements
ARG EXTRAS=serve
COPY pyproject.toml deploy/image/requirements.py ./
RUN python3 requirements.py "${EXTRAS}" > requirements.txt

FROM build AS dependencies
# An index of other torch builds (CPU only, another CUDA); empty takes pip's default, which on Linux carries CUDA.
# A local version (+cpu) sorts above the plain one, so the same pin picks it up.
ARG TORCH_INDEX_URL=""
# Of pyproject.toml its requirements alone, and no source: only a change of them or of the pins installs anew.
COPY --from=requirements /build/requirements.txt .
COPY constraints.txt deploy/image/strip.sh ./
RUN --mount=type=secret,id=pip,target=/etc/pip.conf \
    python3 -m pip install --no-cache-dir --no-compile --constraint constraints.txt \
      ${TORCH_INDEX_URL:+--extra-index-url "${TORCH_INDEX_URL}"} \
      --target /opt/leximind/dependencies --requirement requirements.txt \
    && sh strip.sh /opt/leximind/dependencies \
    && mkdir /metadata \
    && cp -r /opt/leximind/dependencies/*.dist-info /metadata

FROM build AS application
ARG EXTRAS=serve
# optional: an image without the native kernels is wanted, or the processor is neither x86-64 nor ARM64.
ARG KERNELS=required
COPY . .
RUN --mount=type=secret,id=pip,target=/etc/pip.conf \
    python3 -m pip wheel --no-cache-dir --no-deps --wheel-dir /wheels . \
    && { test "${KERNELS}" = optional || ls model/kernels/kernels-*.so > /dev/null || { \
      echo "the native kernels were not compiled (see above); --build-arg KERNELS=optional does without them" >&2; \
      exit 1; }; } \
    && python3 -m pip install --no-cache-dir --no-compile --no-deps --target /opt/leximind/application /wheels/*.whl \
    && case ",${EXTRAS}," in *,training,*) ;; *) rm -r /opt/leximind/application/training ;; esac \
    && mkdir /opt/leximind/checkpoints \
    && mv /opt/leximind/application/model/pretrained /opt/leximind/checkpoints

# Byte code of what the service imports when it is asked everything, found by doing so; the rest has none.
FROM dependencies AS bytecode
ENV PYTHONPATH=/opt/leximind/application:/opt/leximind/dependencies
COPY --from=application /opt/leximind/application /opt/leximind/application
COPY --from=application /opt/leximind/checkpoints/pretrained /opt/leximind/application/model/pretrained
COPY deploy/image/imported.py .
RUN python3 -B imported.py /opt/leximind > imported.txt \
    && python3 -m compileall -q --invalidation-mode unchecked-hash -i imported.txt \
    && mkdir /bytecode \
    && find /opt/leximind -name __pycache__ -exec cp --parents --recursive --target-directory /bytecode {} +

FROM build AS sbom
COPY constraints.txt deploy/image/sbom.py ./
RUN --mount=type=secret,id=pip,target=/etc/pip.conf \
    python3 -m pip install --no-cache-dir --target tools --constraint constraints.txt cyclonedx-python-lib
COPY --from=base /var/lib/dpkg/status /etc/os-release base/
COPY --from=dependencies /metadata packages
COPY --from=application /opt/leximind/application/ application
RUN PYTHONPATH=tools python3 sbom.py base packages application > sbom.cdx.json

FROM base AS runtime
ENV PATH=/opt/leximind/application/bin:$PATH \
    PYTHONPATH=/opt/leximind/application:/opt/leximind/dependencies \
    PYTHONUNBUFFERED=1
WORKDIR /home/leximind
COPY --from=dependencies /opt/leximind/dependencies /opt/leximind/dependencies
COPY --from=bytecode /bytecode/opt/leximind/dependencies /opt/leximind/dependencies
COPY --from=application /opt/leximind/checkpoints /opt/leximind/application/model
COPY --from=application /opt/leximind/application /opt/leximind/application
COPY --from=bytecode /bytecode/opt/leximind/application /opt/leximind/application
COPY --from=sbom /build/sbom.cdx.json /opt/leximind/
COPY deploy/image/healthcheck.py /opt/leximind/
USER 10001:10001
# Live, not ready: a container that is still loading or is draining must not be restarted for it.
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s --retries=3 \
    CMD ["python3", "-I", "/opt/leximind/healthcheck.py"]
ENTRYPOINT ["leximind"]
ARG VERSION=""
ARG REVISION=""
LABEL org.opencontainers.image.title="LexiMind" \
      org.opencontainers.image.description="Summaries, emotions and topics of texts, over HTTP" \
      org.opencontainers.image.licenses="MIT AND LicenseRef-LexiMind-Weights" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"

# The page to try it, with a service beside it: --target demo --build-arg EXTRAS=serve,demo
FROM runtime AS demo
EXPOSE 7860
RUN ["python3", "-c", "import importlib.util as u, sys; u.find_spec('gradio') or sys.exit('the page needs --build-arg EXTRAS=serve,demo')"]
CMD ["demo", "--host", "0.0.0.0"]

FROM runtime AS serve
EXPOSE 8000
CMD ["serve", "--host", "0.0.0.0"]
