"""What a Prometheus may ask a serving process."""

from prometheus_client import Counter, Gauge, Histogram

REQUESTS = Counter(
    "netwright_predict_requests_total", "Prediction requests by target and status.", ["target", "status"]
)
LATENCY = Histogram(
    "netwright_predict_latency_seconds",
    "From the last byte of the request to the answer, of successful predictions.",
    ["target"],
    buckets=(0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10),
)
PICTURES = Counter("netwright_predict_pictures_total", "Pictures answered, by target.", ["target"])
BATCH_SIZE = Histogram("netwright_predict_batch_size", "Pictures per run.", buckets=(1, 2, 4, 8, 16, 32))
IN_WORK = Gauge("netwright_predict_pictures_in_work", "Pictures that are being decoded, wait or run.")
MODELS_LOADED = Gauge("netwright_models_loaded", "Models in memory.")
MODELS_BYTES = Gauge("netwright_models_loaded_bytes", "Size of their files.")
LOADS = Counter("netwright_model_loads_total", "Models brought into memory.", ["outcome"])
COLD_REQUESTS = Counter(
    "netwright_model_cold_requests_total",
    "Requests that found their model not in memory: answered once it was, or refused because that took too long.",
    ["outcome"],
)
LOAD_SECONDS = Histogram(
    "netwright_model_load_seconds",
    "From the database to warm.",
    buckets=(0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10),
)
EXPLANATIONS = Counter(
    "netwright_explain_requests_total", "Requests to explain a prediction, by target and status.", ["target", "status"]
)
EXPLAIN_LATENCY = Histogram(
    "netwright_explain_latency_seconds",
    "From the last byte of the request to the answer, of successful explanations.",
    ["target"],
    buckets=(0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50),
)
LOG_WRITTEN = Counter("netwright_request_log_written_total", "Pictures written to the request log.")
LOG_DROPPED = Counter(
    "netwright_request_log_dropped_total",
    "Pictures that their sample holds and the request log does not, by what was full: rate, full (queue), database; "
    "picture: logged without its bytes.",
    ["why"],
)
