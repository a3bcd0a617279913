# tradebot with its locked dependencies. Data and reports are volumes; keys come from the environment.
FROM python:3.12-slim
RUN apt-get update && apt-get install -y --no-install-recommends git make && rm -rf /var/lib/apt/lists/*
WORKDIR /app
COPY pyproject.toml uv.lock Makefile README.md LICENSE ./
COPY tradebot tradebot
RUN make setup
COPY . .
CMD ["make", "run"]
