"""What `vllm bench serve` and `vllm bench serve --omni` make of streams that arrived at given times.

Written from the rules of vllm/benchmarks/lib/endpoint_request_func.py@02cfb534, vllm/benchmarks/serve.py@009e6d4a,
vllm_omni/benchmarks/patch/patch.py@040aa6bd and vllm_omni/benchmarks/metrics/metrics.py@0f392162, standard library only, and
without a look at the Go profiles that are held against it. Reads the cases of generate.py on stdin and writes, for each run and
profile, the figures of each request and of the run. Times are computed in seconds, as the tools do, and written in them too.
"""

import base64
import codecs
import io
import json
import math
import sys
import wave


class Messages:
    """Messages of a stream: blank lines end them, and whole JSON is taken before its blank line came."""

    def __init__(self):
        self.buffer = ""
        self.decoder = codecs.getincrementaldecoder("utf-8")()

    def add(self, data):
        self.buffer += self.decoder.decode(data)
        found = []
        while "\n\n" in self.buffer:
            message, self.buffer = self.buffer.split("\n\n", 1)
            if message.strip():
                found.append(message.strip())
        if self.buffer.startswith("data: "):
            content = self.buffer[len("data: "):].strip()
            if content == "[DONE]" or is_json(content):
                found.append(self.buffer.strip())
                self.buffer = ""
        return found


def is_json(text):
    try:
        json.loads(text)
        return True
    except ValueError:
        return False


def messages(request):
    """Every message with its time, [DONE] and comments left out. Raises what ends a request as failed."""
    handler = Messages()
    for at, data in request["reads"]:
        for message in handler.add(base64.b64decode(data)):
            if message.startswith(":"):
                continue
            chunk = message.removeprefix("data: ")
            if chunk != "[DONE]":
                yield (request["start_ns"] + at) / 1e9, json.loads(chunk)
    if request["end"] == "reset":
        raise ConnectionResetError


def blank(request):
    return {
        "ok": False, "start": request["start_ns"] / 1e9, "ttft": 0.0, "itl": [], "latency": 0.0, "tokens": 0, "text": "",
        "prompt": request["prompt_tokens"], "audio_ttfp": 0.0, "audio_rtf": 0.0, "has_media": False,
    }


def vllm_request(request):
    out = blank(request)
    if request["status"] != 200:
        return out
    st = most_recent = out["start"]
    first = False
    text = ""
    try:
        for timestamp, data in messages(request):
            if choices := data.get("choices"):
                if request["chat"]:
                    content = choices[0]["delta"].get("content")
                else:
                    content = choices[0].get("text")
                if not first:
                    first = True
                    out["ttft"] = timestamp - st
                else:
                    out["itl"].append(timestamp - most_recent)
                most_recent = timestamp
                text += content if isinstance(content, str) else ""
            elif usage := data.get("usage"):
                out["tokens"] = usage.get("completion_tokens")
                if (n := usage.get("prompt_tokens")) is not None:
                    out["prompt"] = n
    except (ValueError, OSError, KeyError, AttributeError):
        return blank(request)
    out["ok"] = first
    out["text"] = text
    out["latency"] = most_recent - st
    return out


def positive(n):
    return n if isinstance(n, int) and n > 0 else None


def omni_request(request):
    out = blank(request)
    if request["status"] != 200:
        return out
    st = most_recent = timestamp = out["start"]
    seen = 0
    last_audio = 0.0
    pcm = b""
    form = None
    try:
        for timestamp, data in messages(request):
            completion = None
            if isinstance(usage := data.get("usage"), dict):
                if (n := positive(usage.get("prompt_tokens"))) is not None:
                    out["prompt"] = n
                if (completion := positive(usage.get("completion_tokens"))) is not None:
                    out["tokens"] = max(out["tokens"], completion)
            if not (choices := data.get("choices")):
                continue
            delta = choices[0].get("delta") or {}
            content = delta.get("content")
            modality = data.get("modality")
            if modality == "text":
                k = 0
                if completion is not None and completion > seen:
                    k, seen = completion - seen, completion
                if k == 0 and (ids := choices[0].get("token_ids")):
                    k = len(ids)
                if k == 0 and content and completion is None:
                    k = 1
                if k > 0:
                    if out["ttft"] == 0.0:
                        out["ttft"] = timestamp - st
                        out["itl"] += [0.0] * (k - 1)
                    else:
                        out["itl"] += [max(timestamp - most_recent, 0.0) / k] * k
                    most_recent = timestamp
                out["text"] += content or ""
            elif modality == "audio":
                if out["audio_ttfp"] == 0.0:
                    out["audio_ttfp"] = timestamp - st
                last_audio = timestamp - st
                if content:
                    with wave.open(io.BytesIO(base64.b64decode(content)), "rb") as w:
                        if form is None:
                            form = w.getnchannels(), w.getsampwidth(), w.getframerate()
                        pcm += w.readframes(w.getnframes())
            elif modality == "image":
                out["has_media"] = True
    except (ValueError, OSError, KeyError, AttributeError, wave.Error):
        return blank(request)
    out["latency"] = timestamp - st
    if form is not None and pcm:
        seconds = len(pcm) / form[1] / form[0] / form[2]
        out["audio_rtf"] = last_audio / seconds
        out["has_media"] = True
    out["ok"] = True
    return out


def vllm_tokens(out, request):
    """The tokenizer counts where usage did not; without one it is one token."""
    if out["tokens"]:
        return out["tokens"]
    return 1 if request["tokenizer"] is None else request["tokenizer"]


def omni_tokens(out, request):
    if not out["tokens"] and not out["text"] and out["has_media"]:
        return 0
    return vllm_tokens(out, request)


def vllm_tpot(out, tokens):
    return (out["latency"] - out["ttft"]) / (tokens - 1) if tokens > 1 else None


def omni_tpot(out, tokens):
    if tokens > 1 and out["itl"]:
        mean = sum(out["itl"]) / len(out["itl"])
        if mean > 0:
            return mean
    return None


def vllm_goodput_tpot(tpot):
    return 0.0 if tpot is None else tpot


def omni_goodput_tpot(tpot):
    return tpot


def vllm_timeline(out):
    return True


def omni_timeline(out):
    return bool(out["tokens"] > 0 or out["itl"] or out["text"])


def exact_concurrency(done, first):
    events = []
    for out in done:
        events.append((out["start"], 1))
        events.append((out["start"] + out["latency"], -1))
    events.sort(key=lambda e: (e[0], e[1]))
    now = peak = 0
    for _, delta in events:
        now += delta
        peak = max(peak, now)
    return peak


def second_concurrency(done, first):
    seconds = {}
    for out in done:
        for second in range(int(out["start"] - first), int(out["start"] + out["latency"] - first) + 1):
            seconds[second] = seconds.get(second, 0) + 1
    return max(seconds.values(), default=0)


RULES = {
    "vllm": (vllm_request, vllm_tokens, vllm_tpot, vllm_goodput_tpot, vllm_timeline, exact_concurrency),
    "vllm-omni": (omni_request, omni_tokens, omni_tpot, omni_goodput_tpot, omni_timeline, second_concurrency),
}


def percentile(values, p):
    """R type 7, as numpy: linear between order statistics."""
    values = sorted(values)
    at = p / 100 * (len(values) - 1)
    low = math.floor(at)
    high = min(low + 1, len(values) - 1)
    return values[low] + (at - low) * (values[high] - values[low])


def describe(name, values, empty, result):
    values = values or [empty]
    mean = sum(values) / len(values)
    result["mean_" + name] = mean
    result["std_" + name] = math.sqrt(sum((v - mean) ** 2 for v in values) / len(values))
    result["median_" + name] = percentile(values, 50)
    for p in (25, 90, 95, 99, 99.9):
        result[f"p{p}_{name}"] = percentile(values, p)


def calculate(run, profile):
    measure, count, per_token, goodput_tpot, timeline, concurrency = RULES[profile]
    requests, done, tokens, ttfts, tpots, itls, e2els, ttfps, rtfs = [], [], [], [], [], [], [], [], []
    good = total_in = 0
    slo = {k: float(v) / 1000 for k, v in (pair.split(":") for pair in run["goodput"].split())}
    for request in run["requests"]:
        out = measure(request)
        n, tpot = 0, None
        if out["ok"]:
            n = count(out, request)
            tpot = per_token(out, n)
            done.append(out)
            total_in += out["prompt"]
            ttfts.append(out["ttft"])
            e2els.append(out["latency"])
            itls += out["itl"]
            ttfps.append(out["audio_ttfp"])
            rtfs.append(out["audio_rtf"])
            if tpot is not None:
                tpots.append(tpot)
            shown = {"ttft": out["ttft"], "tpot": goodput_tpot(tpot), "e2el": out["latency"], "audio_ttfp": out["audio_ttfp"]}
            good += all(shown[k] is not None and shown[k] <= limit for k, limit in slo.items())
        tokens.append(n)
        requests.append({
            "ok": out["ok"], "ttft": out["ttft"], "itl": out["itl"], "latency": out["latency"], "tokens": n, "tpot": tpot,
            "prompt": out["prompt"], "text": out["text"], "audio_ttfp": out["audio_ttfp"], "audio_rtf": out["audio_rtf"],
        })
    duration = run["wall_ns"] / 1e9
    result = {
        "completed": len(done), "failed": len(requests) - len(done), "total_input_tokens": total_in, "total_output_tokens": sum(tokens),
        "request_throughput": len(done) / duration, "request_goodput": good / duration, "output_throughput": sum(tokens) / duration,
        "total_token_throughput": (total_in + sum(tokens)) / duration, "max_output_tokens_per_s": 0, "max_concurrent_requests": 0,
    }
    if done:
        first = min(out["start"] for out in done)
        buckets = {}
        for out in done:
            if timeline(out):
                at = out["start"] + out["ttft"]
                buckets[int(at - first)] = buckets.get(int(at - first), 0) + 1
                for gap in out["itl"]:
                    at += gap
                    buckets[int(at - first)] = buckets.get(int(at - first), 0) + 1
        result["max_output_tokens_per_s"] = max(buckets.values(), default=0)
        result["max_concurrent_requests"] = concurrency(done, first)
    describe("ttft", ttfts, 0.0, result)
    describe("tpot", tpots, 0.0, result)
    describe("itl", itls, 0.0, result)
    describe("e2el", e2els, 0.0, result)
    describe("audio_ttfp", ttfps, 0.0, result)
    describe("audio_rtf", rtfs, 0.0, result)
    n = {"ttft": len(ttfts), "tpot": len(tpots), "itl": len(itls), "e2el": len(e2els), "audio_ttfp": len(ttfps), "audio_rtf": len(rtfs)}
    return {"profile": profile, "requests": requests, "result": result, "n": n}


def main():
    cases = json.load(sys.stdin)
    for run in cases["runs"]:
        run["want"] = [calculate(run, profile) for profile in run["profiles"]]
    json.dump(cases, sys.stdout, separators=(",", ":"))


if __name__ == "__main__":
    main()
