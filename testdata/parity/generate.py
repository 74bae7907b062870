"""Streams as servers of the vLLM family send them, with the traps that benchmark clients fall into. Usage: generate.py SEED

Each run has requests, each request the reads that its client got: nanoseconds after its start, and bytes. Nothing here is a
figure: calculator.py makes those.
"""

import base64
import io
import json
import random
import sys
import wave

WORDS = ["red", " fox", " 今天", "天气", "风和日丽", "สวัสดี", " déjà", " 🎉", " jumps", "\n", " over", " 한국어", '"quoted"', " \\x1b"]
PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
MS = 1_000_000


class Stream:
    """Events with their times, which end() cuts into reads."""

    def __init__(self, r, chat, omni):
        self.r, self.chat, self.omni = r, chat, omni
        self.at = r.randint(20 * MS, 400 * MS) + r.randint(0, 999_999)
        self.events = []  # time, bytes
        self.traps = set()
        self.tokens = 0

    def wait(self):
        if self.r.random() < 0.15:
            return  # the same read as the event before
        self.at += self.r.choice([3, 17, 20, 41]) * MS + self.r.randint(1, 999_999)

    def raw(self, text, wait=True):
        if wait and self.events:
            self.wait()
        self.events.append((self.at, text.encode()))

    def say(self, message, end="\n\n"):
        self.raw("data: " + json.dumps(message, ensure_ascii=self.r.random() < 0.3) + end)

    def chunk(self, content=None, finish=None, usage=None, ids=None, modality="text", **delta):
        choice = {"index": 0, "finish_reason": finish}
        if self.chat:
            choice["delta"] = dict(delta)
            if content is not None:
                choice["delta"]["content"] = content
        else:
            choice["text"] = content or ""
        if ids is not None:
            choice["token_ids"] = ids
        message = {"id": "x", "object": "chunk", "model": "m", "choices": [choice]}
        if self.omni:
            message["modality"] = modality
        if usage is not None:
            message["usage"] = usage
        self.say(message)

    def usage(self, completion=None, prompt=None):
        u = {"completion_tokens": self.tokens if completion is None else completion}
        if prompt is not None:
            u["prompt_tokens"] = prompt
            u["total_tokens"] = prompt + u["completion_tokens"]
        return u


def sound(r):
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as w:
        w.setnchannels(1)
        w.setsampwidth(2)
        w.setframerate(24000)
        w.writeframes(bytes(2 * r.choice([240, 480, 2400])))
    return base64.b64encode(buffer.getvalue()).decode()


def body(s, prompt, trap):
    r = s.r
    count = 1 if trap == "one-token" else r.randint(2, 24)
    told = r.choice(["usage", "ids", "nothing"]) if s.omni else r.choice(["usage", "nothing", "nothing"])
    final = trap if trap in ("usage-on-last-choice", "no-usage", "zero-usage", "usage-twice") else "usage-message"
    if s.chat and r.random() < 0.8:
        s.traps.add("role-chunk")
        s.chunk("" if r.random() < 0.5 else None, role="assistant", usage=s.usage() if told == "usage" else None)
    if r.random() < 0.15:
        s.raw(": ping\n\n")
        s.traps.add("comment")
    text = ""
    n = 0
    while n < count:
        k = 1 if trap == "one-token" or r.random() < 0.6 else min(r.randint(2, 4), count - n)
        if k > 1:
            s.traps.add("multi-token-chunk")
        words = "".join(r.choice(WORDS) for _ in range(k))
        n += k
        s.tokens += k
        last = n == count
        usage = s.usage() if told == "usage" else None
        if final == "usage-on-last-choice" and last:
            usage = s.usage(prompt=prompt)
            s.traps.add(final)
        ids = list(range(k)) if told == "ids" else None
        finish = r.choice(["stop", "length"]) if last and trap != "early-eof" else None
        if not last and r.random() < 0.08:
            s.traps.add("empty-text")
            s.chunk("", usage=usage, ids=ids)
        elif s.chat and not last and r.random() < 0.12:
            s.traps.add("reasoning")
            s.chunk(None, usage=usage, ids=ids, reasoning_content=words)
        elif s.chat and not last and r.random() < 0.06:
            s.traps.add("tool-call")
            s.chunk(None, usage=usage, ids=ids, tool_calls=[{"index": 0, "function": {"arguments": words}}])
        else:
            text += words
            s.chunk(words, finish=finish, usage=usage, ids=ids)
            if not s.chat and last and not words:
                s.traps.add("empty-text")
    if trap == "finish-apart" and s.chat:
        s.chunk("", finish="stop", usage=s.usage() if told == "usage" else None)
        s.traps.add(trap)
    if s.omni and trap == "media":
        s.traps.add(trap)
        if r.random() < 0.7:
            s.chunk("", modality="audio")
        for _ in range(r.randint(1, 3)):
            s.chunk(sound(r), modality="audio")
    if final == "usage-message" or final == "usage-twice":
        if final == "usage-twice":
            s.traps.add(final)
            s.say({"id": "x", "choices": [], "usage": s.usage(completion=max(1, s.tokens - 1), prompt=prompt)})
        s.say({"id": "x", "choices": [], "usage": s.usage(prompt=prompt)})
    elif final == "zero-usage":
        s.traps.add(final)
        if told != "usage":
            s.say({"id": "x", "choices": [], "usage": s.usage(completion=0, prompt=prompt)})
    else:
        s.traps.add(final)
    if s.omni and trap == "image" and s.chat:
        s.traps.add(trap)
        s.chunk([{"type": "image_url", "image_url": {"url": "data:image/png;base64," + PNG}}], modality="image")


def cut(s, missing_blank):
    """Bytes as reads: events of one time together, and cuts anywhere but between an event and its blank line, where vLLM takes
    the event before it is over."""
    reads, r = [], s.r
    events = list(s.events)
    if missing_blank and events:
        at, data = events[-1]
        events[-1] = (at, data.rstrip(b"\n"))
        s.traps.add("missing-blank-line")
    for at, data in events:
        if reads and reads[-1][0] == at:
            reads[-1][1] += data
        else:
            reads.append([at, bytearray(data)])
    out, carried = [], b""
    for i, (at, data) in enumerate(reads):
        data = carried + bytes(data)
        carried = b""
        tail = 0
        # The end of a read may move into the next one with the last event's beginning: that event then comes later.
        if i + 1 < len(reads) and r.random() < 0.25:
            tail = r.randint(3, 40)
            start = data.rstrip(b"\n").rfind(b"\n") + 1
            if len(data) - tail > start + 10 and tail > 3:
                carried = data[-tail:]
                s.traps.add("split-event")
                try:
                    carried.decode()
                except UnicodeDecodeError:
                    s.traps.add("split-utf8")
                data = data[:-tail]
        if r.random() < 0.2 and len(data) > 60:  # an event in two reads, the second at the event's time
            middle = r.randint(20, len(data) - 30)
            head = data[:middle]
            if data[middle:].startswith(b"\n"):  # between an event and the end of its blank line
                out.append([at, data])
                continue
            early = max(out[-1][0] if out else 0, at - r.randint(1, 2 * MS))
            if b"\n\n" in head:
                early = at
            out.append([early, head])
            try:
                head.decode()
            except UnicodeDecodeError:
                s.traps.add("split-utf8")
            out.append([at, data[middle:]])
            s.traps.add("split-event")
        else:
            out.append([at, data])
    return out


TRAPS = ["plain", "plain", "one-token", "usage-on-last-choice", "no-usage", "zero-usage", "usage-twice", "finish-apart", "early-eof",
         "cut-event", "reset", "error-event", "http-500", "http-429", "empty-body", "only-usage", "bad-json", "media", "image", "missing-blank"]


def request(r, omni, trap, start):
    chat = omni or r.random() < 0.6
    s = Stream(r, chat, omni)
    prompt = r.randint(8, 600)
    req = {"start_ns": start, "status": 200, "chat": chat, "end": "eof", "prompt_tokens": prompt, "tokenizer": None}
    req["queue_ns"] = r.choice([0, r.randint(0, 900 * MS)])
    req["due_ns"] = start - req["queue_ns"] - r.randint(0, 2 * MS)
    done = True
    if trap.startswith("http-"):
        req["status"] = int(trap[5:])
        s.say({"error": {"message": "no", "type": "x", "code": req["status"]}})
        done = False
    elif trap == "empty-body":
        done = False
    elif trap == "only-usage":
        s.say({"id": "x", "choices": [], "usage": {"prompt_tokens": prompt, "completion_tokens": 0}})
    else:
        body(s, prompt + 3, trap)
    if trap == "error-event":
        s.events = s.events[:max(2, len(s.events) // 2)]
        s.say({"error": {"message": "KV load failed", "type": "Internal", "code": 500}})
    elif trap == "bad-json":
        s.events = s.events[:max(2, len(s.events) // 2)]
        s.raw('data: {"choices": [{"index": 0, "delta": }]}\n\n')
    elif trap in ("early-eof", "cut-event", "reset"):
        s.events = s.events[:max(2, len(s.events) // 2)]
        done = False
        if trap == "reset":
            req["end"] = "reset"
    if done:
        s.raw("data: [DONE]\n\n")
    if trap == "cut-event":
        at, data = s.events[-1]
        data = data.rstrip(b"\n")
        s.events[-1] = (at, data[:max(12, len(data) // 2)])
    reads = cut(s, trap == "missing-blank") if trap not in ("cut-event",) else [[at, data] for at, data in s.events]
    if r.random() < 0.5 and trap not in ("http-500", "http-429") and s.tokens:
        req["tokenizer"] = s.tokens + r.randint(0, 2)
    s.traps.add(trap)
    req["traps"] = sorted(s.traps)
    req["reads"] = [[at, base64.b64encode(bytes(data)).decode()] for at, data in reads]
    return req


def run(r, name, omni, traps):
    start, requests = 1_000 * MS, []
    for trap in traps:
        start += r.randint(1, 300) * MS + r.randint(0, 999_999)
        requests.append(request(r, omni, trap, start))
    wall = max([q["start_ns"] + (q["reads"][-1][0] if q["reads"] else 0) for q in requests], default=2_000 * MS) - 1_000 * MS + 7 * MS
    goodput = r.choice(["ttft:200", "ttft:250 tpot:18", "tpot:15", "e2el:500", "e2el:600 ttft:300 tpot:30"])
    return {"name": name, "profiles": ["vllm", "vllm-omni"] if omni else ["vllm"], "goodput": goodput, "wall_ns": wall, "requests": requests}


def main():
    r = random.Random(int(sys.argv[1]))
    runs = [run(r, "empty set", True, []), run(r, "all failed", True, ["http-500", "reset", "http-429"]), run(r, "one success", True, ["plain"])]
    for i in range(12):
        omni = i % 2 == 0
        traps = [t for t in TRAPS if omni or t not in ("media", "image")]
        r.shuffle(traps)
        runs.append(run(r, f"{'omni' if omni else 'text'} {i}", omni, traps))
    json.dump({"seed": int(sys.argv[1]), "runs": runs}, sys.stdout, separators=(",", ":"))


if __name__ == "__main__":
    main()
