"""Serves vllm.LLM to the program that started it: batches in, texts out, without HTTP.

One JSON object a line, over the Unix socket that --socket names. Standard output and error are the log and carry no
protocol, because vLLM, its workers and every library under it print there.

    <- {"id":0,"protocol":1,"pid":4711,"python":"3.11.2"}                         at once
    -> {"id":1,"op":"load","model":"...","args":{...}}                            args of vllm.LLM
    <- {"id":1,"engine":"vllm","version":"0.32.0","took":12.3}
    -> {"id":2,"op":"generate","jobs":[{"prompt":"...","max_tokens":16}, ...]}    or "prompt_ids":[...]
    <- {"id":2,"took":0.4,"results":[{...}, ...]}                                 in the order of the jobs
    <- {"id":2,"error":{"type":"ValueError","message":"...","traceback":[...]}}   in place of any answer
    -> {"id":3,"op":"close"}
    <- {"id":3}

All times are seconds; what was not measured is null. Needs nothing but Python 3.9 and the engine.
"""
import argparse
import json
import math
import os
import platform
import socket
import sys
import time
import traceback

PROTOCOL = 1
TRACEBACK_LINES = 20


class Runner:
    def __init__(self):
        self.llm = None

    def load(self, request):
        began = time.monotonic()
        import vllm

        args = dict(request.get("args") or {})
        # vllm.LLM switches the statistics off, and RequestOutput.metrics with them.
        args.setdefault("disable_log_stats", False)
        self.llm = vllm.LLM(model=request["model"], **args)
        return {
            "engine": "vllm",
            "version": getattr(vllm, "__version__", ""),
            "took": time.monotonic() - began,
        }

    def generate(self, request):
        if self.llm is None:
            raise RuntimeError("generate before load")
        from vllm import SamplingParams

        prompts, params = [], []
        for job in request["jobs"]:
            if job.get("prompt_ids") is not None:
                prompts.append({"prompt_token_ids": job["prompt_ids"]})
            else:
                prompts.append({"prompt": job["prompt"]})
            params.append(SamplingParams(
                temperature=0.0,
                max_tokens=job["max_tokens"],
                ignore_eos=bool(job.get("ignore_eos")),
                logprobs=2 if job.get("margins") else None,
            ))
        submitted, began = time.time(), time.monotonic()
        outputs = self.llm.generate(prompts, params, use_tqdm=False)
        took = time.monotonic() - began
        if len(outputs) != len(prompts):
            raise RuntimeError("%d outputs for %d prompts" % (len(outputs), len(prompts)))
        return {"took": took, "results": [result(o, submitted, took) for o in outputs]}

    def close(self, request):
        llm, self.llm = self.llm, None
        core = getattr(getattr(llm, "llm_engine", None), "engine_core", None)
        if hasattr(core, "shutdown"):
            core.shutdown()
        return {}


def result(output, submitted, took):
    text = output.outputs[0]
    first, last, clock = times(getattr(output, "metrics", None), submitted, took)
    return {
        "text": text.text,
        "token_ids": list(text.token_ids),
        "prompt_tokens": len(output.prompt_token_ids),
        "cached_tokens": getattr(output, "num_cached_tokens", None),
        "finish_reason": text.finish_reason,
        "first_token": first,
        "last_token": last,
        "clock": clock,
        "margins": None if text.logprobs is None else [margin(p) for p in text.logprobs],
    }


def times(metrics, submitted, took):
    """First and last token since the batch was submitted, and whose clock says so.

    vLLM (v1) keeps two clocks in one object: arrival_time and first_token_latency are wall clock of this process,
    first_token_ts and last_token_ts are monotonic in the engine core, which may be another process. Only differences
    within one clock are taken.
    """
    latency = getattr(metrics, "first_token_latency", None)
    arrival = getattr(metrics, "arrival_time", None)
    first_ts = getattr(metrics, "first_token_ts", None)
    last_ts = getattr(metrics, "last_token_ts", None)
    if not latency or not arrival or not first_ts or not last_ts:  # None, or 0.0: the field's "never set"
        return None, took, "batch"
    first = arrival - submitted + latency
    # The way from the engine core to here may have taken longer for the first token than for the last (by 1 ms in 6.8 s,
    # seen with 0.32.0). No token came after the batch's end.
    last = min(first + last_ts - first_ts, took)
    if not 0 <= first <= last:  # the wall clock was set meanwhile
        return None, took, "batch"
    return first, last, "engine"


def margin(candidates):
    """How far the best token is ahead of the second, in nats; null where there is no second."""
    best = sorted((c.logprob for c in candidates.values()), reverse=True)[:2]
    if len(best) < 2 or not math.isfinite(best[0] - best[1]):
        return None
    return best[0] - best[1]


def encode(message):
    # ASCII with backslash-u escapes: a lone surrogate in a text would break UTF-8. NaN is no JSON and raises.
    return json.dumps(message, allow_nan=False).encode("ascii") + b"\n"


def failure(error):
    lines = "".join(traceback.format_exception(type(error), error, error.__traceback__)).splitlines()
    return {"type": type(error).__name__, "message": str(error), "traceback": lines[-TRACEBACK_LINES:]}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--socket", required=True)
    path = parser.parse_args().socket
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.connect(path)
    requests = connection.makefile("r", encoding="utf-8", newline="\n")

    connection.sendall(encode({"id": 0, "protocol": PROTOCOL, "pid": os.getpid(), "python": platform.python_version()}))
    runner = Runner()
    operations = {"load": runner.load, "generate": runner.generate, "close": runner.close}
    for line in requests:
        number, operation, ending = None, None, None
        try:
            request = json.loads(line)
            number, operation = request.get("id"), request.get("op")
            if operation not in operations:
                raise ValueError("unknown op %r; known: %s" % (operation, ", ".join(operations)))
            answer = encode({"id": number, **operations[operation](request)})
        except BaseException as error:  # SystemExit too: an engine that gives up must be told from one that was killed
            traceback.print_exc()
            answer = encode({"id": number, "error": failure(error)})
            if isinstance(error, (KeyboardInterrupt, SystemExit)):
                ending = error
        sys.stdout.flush()
        sys.stderr.flush()
        connection.sendall(answer)
        if ending is not None:
            raise ending
        if operation == "close":
            break


# The engine core is spawned as a process that imports this file once more.
if __name__ == "__main__":
    main()
