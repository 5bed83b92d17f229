# Builds the wheel, installs it into a virtual environment, and copies that environment alone into the image served.
# The bundled checkpoint comes inside the wheel.
#
#   docker build -t leximind .
#   docker run --rm -p 127.0.0.1:8000:8000 leximind
#
# Any Debian-like image with Python 3.11 to 3.14 as `python` will do.
ARG BASE_IMAGE=python:3.12-slim-bookworm

FROM ${BASE_IMAGE} AS wheel
# The compiler of the native kernels; it stays behind in this stage, whatever its version.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM ${BASE_IMAGE} AS install
# An index of other torch builds (CPU only, another CUDA); empty takes pip's default, which on Linux carries CUDA.
# A local version (+cpu) sorts above the plain one, so the same pin picks it up.
ARG TORCH_INDEX_URL=""
WORKDIR /build
RUN python -m venv /opt/leximind
COPY constraints.txt .
# torch apart: gigabytes that change with the pins, not with the source.
RUN /opt/leximind/bin/pip install --no-cache-dir --constraint constraints.txt \
    ${TORCH_INDEX_URL:+--extra-index-url "${TORCH_INDEX_URL}"} torch
COPY --from=wheel /wheels /wheels
RUN for wheel in /wheels/*.whl; do \
      /opt/leximind/bin/pip install --no-cache-dir --constraint constraints.txt "${wheel}[serve]" || exit 1; \
    done

FROM ${BASE_IMAGE}
LABEL org.opencontainers.image.title="LexiMind" \
      org.opencontainers.image.licenses="MIT"
RUN groupadd --gid 10001 leximind \
    && useradd --uid 10001 --gid leximind --create-home --shell /usr/sbin/nologin leximind
COPY --from=install /opt/leximind /opt/leximind
ENV PATH=/opt/leximind/bin:$PATH \
    PYTHONUNBUFFERED=1
USER 10001:10001
WORKDIR /home/leximind
EXPOSE 8000
# Live, not ready: a container that is still loading or is draining must not be restarted for it.
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s --retries=3 \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/health/live', timeout=2)"]
ENTRYPOINT ["leximind"]
CMD ["serve", "--host", "0.0.0.0"]
