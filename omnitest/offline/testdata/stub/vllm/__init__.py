"""Stands in for vLLM where runner.py itself is under test: the same surface, no model. A token is a byte."""
import sys
import time

__version__ = "0.0-stub"


class SamplingParams:
    def __init__(self, temperature, max_tokens, ignore_eos, logprobs):
        assert temperature == 0.0
        self.max_tokens, self.ignore_eos, self.logprobs = max_tokens, ignore_eos, logprobs


class Bag:
    def __init__(self, **fields):
        self.__dict__.update(fields)


class LLM:
    def __init__(self, model, disable_log_stats, behave="well"):
        if model == "missing":
            raise OSError("no such model: missing")
        if behave == "exit":
            sys.exit("the platform is not supported")
        assert disable_log_stats is False, "without statistics there are no times"
        print("stub: loaded", model)
        self.behave = behave
        self.llm_engine = Bag(engine_core=Bag(shutdown=lambda: print("stub: engine core shut down")))

    def generate(self, prompts, params, use_tqdm):
        assert use_tqdm is False
        print("stub: a batch of", len(prompts))
        if self.behave == "raise":
            raise ValueError("prompt \u4f60\u597d is too long")
        arrival = time.time()
        time.sleep(0.1)
        outputs = [self.answer(p, q, arrival) for p, q in zip(prompts, params)]
        return outputs[1:] if self.behave == "lose" else outputs

    def answer(self, prompt, params, arrival):
        ids = prompt.get("prompt_token_ids") or list(prompt["prompt"].encode())
        out = ids[:params.max_tokens]
        logprobs = None
        if params.logprobs:
            assert params.logprobs == 2
            logprobs = [{t: Bag(logprob=-0.5), 0: Bag(logprob=-1.25)} if t else {0: Bag(logprob=-0.5)} for t in out]
        metrics = Bag(arrival_time=arrival, first_token_latency=0.02, first_token_ts=1000.0, last_token_ts=1000.05)
        if self.behave == "no-metrics":
            metrics = None
        if self.behave == "never-set":
            metrics.first_token_ts = 0.0
        if self.behave == "clock-set-back":
            metrics.arrival_time -= 3600
        if self.behave == "clock-set-on":
            metrics.arrival_time += 3600
        if self.behave == "late-last":
            metrics.last_token_ts += 3600
        return Bag(
            prompt_token_ids=ids, metrics=metrics, num_cached_tokens=4,
            outputs=[Bag(
                text=bytes(out).decode("utf-8", "surrogateescape" if self.behave == "surrogate" else "replace"), token_ids=out,
                finish_reason="length" if len(out) < len(ids) else "stop", logprobs=logprobs,
            )],
        )
