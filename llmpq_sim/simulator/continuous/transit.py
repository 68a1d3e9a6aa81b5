"""Transit of a batch through stages and links, and the return of its tokens.

Stages and links serve in order of arrival and batches never overtake each other, so a batch's
transit is known when it enters: it depends on the batches before it, never on those behind. With
``s`` the service at a stage and ``x`` the transfer behind it:

    ended = max(arrived, stage free) + s;  arrived at the next = max(ended, link free) + x
"""

from llmpq_sim.simulator.continuous.cohort import Cohort
from llmpq_sim.simulator.continuous.mixed_costs import Pipeline
from llmpq_sim.simulator.phases import Phases, Spans

Line = list[tuple[float, float, float]]
"""For each stage ``(a, b, x)``: a batch takes ``a + b * mean context``, the link behind x."""


class Transit:
    """Stages and links, and when each is free again.

    Attributes:
        stage_free_s, link_free_s: when each has done what has entered so far.
        busy_s: how long each stage computes for what has entered so far.
        batches: how many have entered.

    Phases are those of `phases_of`, with less to do: from one batch with decodes to the next, the
    pipeline decodes all the time, so that only batches of prompts alone part one span from another.
    """

    def __init__(self, pipeline: Pipeline) -> None:
        stages = len(pipeline.stages)
        self.pipeline = pipeline
        self.stage_free_s = [0.0] * stages
        self.link_free_s = [0.0] * stages
        self.busy_s = [0.0] * stages
        self.batches = 0
        self._prefill, self._decode = Spans(), Spans()
        self._prefill_tokens = self._prompts_sampled = 0
        self._is_decoding = False
        self._knots = pipeline.stages[0].decode_s.shape[1]
        self._knot_tokens = pipeline.knot_tokens
        self._attention: dict[int, list[tuple[float, float]]] = {}
        self._no_attention = [(0.0, 0.0)] * stages
        self._decodes: dict[int, Line] = {}

    def decode(self, rows: int, context_sum: int, at_s: float) -> tuple[float, float]:
        """Let a batch of decodes alone enter; return when it is sampled, and when back.

        Args:
            rows: sequences.
            context_sum: tokens they attend to, over all of them.
            at_s: when it enters the line before stage 0.
        """
        if not self._is_decoding:
            self._begin_decoding(at_s)
        key = rows * self._knots + context_sum // (rows * self._knot_tokens)
        line = self._decodes.get(key)
        if line is None:
            line = self._decodes[key] = self._decode_line(rows, key)
        return self._pass(line, context_sum / rows, at_s)

    def enter(self, batch: Cohort, at_s: float) -> tuple[float, float]:
        """Let any batch enter; return when its tokens are sampled, and when they are back."""
        rows, context_sum = batch.rows, batch.context_sum
        if not batch.work:
            return self.decode(rows, context_sum, at_s)
        began_s = max(at_s, self.stage_free_s[0])
        if rows and not self._is_decoding:
            self._begin_decoding(at_s)
        elif not rows:
            self._end_decoding()
        line = self._mixed_line(batch)
        passed = self._pass(line, context_sum / rows if rows else 0.0, at_s)
        self._prefill.add(began_s, passed[0])
        return passed

    def phases(self, output_tokens: int) -> Phases:
        """Return the phases of all that has entered, which sampled so many output tokens."""
        self._end_decoding()
        return Phases(
            prefill_s=self._prefill.total_s,
            prefill_tokens=self._prefill_tokens,
            decode_s=self._decode.total_s,
            decode_tokens=output_tokens - self._prompts_sampled,
        )

    def _begin_decoding(self, at_s: float) -> None:
        """Note that a batch with decodes enters behind one without any, or none."""
        self._is_decoding = True
        began_s, last_s = max(at_s, self.stage_free_s[0]), self.stage_free_s[-1]
        self._decode.add(min(began_s, last_s), last_s)

    def _end_decoding(self) -> None:
        """Note that the last batch with decodes, if that was the last batch, has passed."""
        if self._is_decoding:
            self._decode.ended_s = self.stage_free_s[-1]
        self._is_decoding = False

    def _pass(self, line: Line, context: float, at_s: float) -> tuple[float, float]:
        stage_free_s, link_free_s, busy_s = self.stage_free_s, self.link_free_s, self.busy_s
        for number, (fixed_s, per_token_s, transfer_s) in enumerate(line):
            service_s = fixed_s + per_token_s * context
            free_s = stage_free_s[number]
            sampled_s = (at_s if at_s > free_s else free_s) + service_s
            stage_free_s[number] = sampled_s
            busy_s[number] += service_s
            free_s = link_free_s[number]
            at_s = (sampled_s if sampled_s > free_s else free_s) + transfer_s
            link_free_s[number] = at_s
        self.batches += 1
        return sampled_s, at_s

    def _decode_line(self, rows: int, key: int) -> Line:
        line = []
        for stage, (at_zero_s, per_token_s) in zip(
            self.pipeline.stages, self._attention_lines(rows, key), strict=True
        ):
            fixed_s = stage.tokens_s[rows] + stage.samples_s[rows]
            line.append((fixed_s + at_zero_s, per_token_s, stage.transfer_s[rows]))
        return line

    def _attention_lines(self, rows: int, key: int) -> list[tuple[float, float]]:
        if key not in self._attention:
            stages, knot = range(len(self.pipeline.stages)), key - rows * self._knots
            self._attention[key] = [
                self.pipeline.attention_line(number, rows, knot) for number in stages
            ]
        return self._attention[key]

    def _mixed_line(self, batch: Cohort) -> Line:
        """Return the line of a batch with prompt chunks, the same sum as `Pipeline.service_s`."""
        rows = tokens = samples = batch.rows
        chunks = []
        for sequence, prefix, chunk in batch.work:
            tokens += chunk
            samples += prefix + chunk == sequence.known_tokens
            chunks.append((prefix, prefix + chunk))
        self._prefill_tokens += tokens - rows
        self._prompts_sampled += samples - rows
        attention = self._no_attention
        if rows:
            knot = batch.context_sum // (rows * self._knot_tokens)
            attention = self._attention_lines(rows, rows * self._knots + knot)
        line, stages = [], self.pipeline.stages
        for number, (at_zero_s, per_token_s) in enumerate(attention):
            stage = stages[number]
            prompt_s = stage.prompt_s
            total_s = stage.tokens_s[tokens] + stage.samples_s[samples]
            for before, after in chunks:
                added_s = prompt_s[after] - prompt_s[before]
                if added_s > 0.0:
                    total_s += added_s
            if rows:
                total_s += at_zero_s
            sent = tokens if number < len(stages) - 1 else samples
            line.append((total_s, per_token_s, stage.transfer_s[sent]))
        return line
