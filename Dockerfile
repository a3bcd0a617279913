# tradebot with its locked dependencies: what is built in the first stage is all that the second one gets, and nobody is root in it.
# docs/deploying.md says how it is run, deploy/README.md what of this was tried where.
FROM python:3.12-slim-trixie AS builder
ENV UV_COMPILE_BYTECODE=1 UV_LINK_MODE=copy UV_PYTHON_DOWNLOADS=never UV_PROJECT_ENVIRONMENT=/app/.venv
RUN pip install --no-cache-dir --disable-pip-version-check --root-user-action=ignore uv==0.13.9
WORKDIR /app
COPY pyproject.toml uv.lock ./
RUN --mount=type=cache,target=/root/.cache/uv \
    uv sync --frozen --no-dev --extra celery --extra oidc --extra push --no-install-project
COPY README.md LICENSE ./
COPY tradebot tradebot
RUN --mount=type=cache,target=/root/.cache/uv \
    uv sync --frozen --no-dev --extra celery --extra oidc --extra push \
    && .venv/bin/python -m compileall -q --invalidation-mode checked-hash tradebot

FROM python:3.12-slim-trixie
ARG UID=1000
LABEL org.opencontainers.image.title="tradebot" org.opencontainers.image.licenses="Apache-2.0"
# Elsewhere than on this machine, `tradebot serve` starts only once there is a key. Reports and models are what containers share.
ENV PATH=/app/.venv/bin:$PATH \
    HOME=/home/tradebot \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    TRADEBOT_HOME=/app \
    TRADEBOT_SERVE_HOST=0.0.0.0 \
    TRADEBOT_EXECUTION_KILL_FILE=reports/KILL
RUN useradd --uid $UID --user-group --create-home tradebot \
    && install -d -o tradebot -g tradebot /app/.cache /app/backups /app/data /app/models /app/reports
WORKDIR /app
COPY --from=builder /app/.venv .venv
COPY pyproject.toml settings.ini README.md LICENSE ./
COPY schedules schedules
COPY nbs nbs
COPY --from=builder /app/tradebot tradebot
USER $UID:$UID
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-c", "from http.client import HTTPConnection as C; c = C('127.0.0.1', 8000, timeout=4); c.request('GET', '/readyz'); raise SystemExit(c.getresponse().status != 200)"]
CMD ["tradebot", "serve"]
