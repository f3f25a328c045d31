"""What a stage has to do, in seconds: for a decode step, a prefill, or a wave of a micro-batch.

A *wave* is the life of a micro-batch of requests that run in step: their prompts, then an output token of each a step.
The first output token comes out of the prompt's last row, so there is one decode step less than output tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from math import sqrt

from shoal.planner.predict.slowest import Uncertain, expected_slowest
from shoal.planner.predict.workload import Workload
from shoal.planner.speeds.speeds import BlockSpeed, LinkSpeed, WorkerSpeed


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """Seconds on one worker. Linear: the work of two things one after the other is the sum of theirs.

    A block takes its fixed seconds and its share of the others: of KV heads, MLP columns or vocabulary rows.
    """

    attention_fixed_s: float = 0.0
    """of one layer"""
    attention_s: float = 0.0
    """of one layer, all heads"""
    mlp_fixed_s: float = 0.0
    """of one layer"""
    mlp_s: float = 0.0
    """of one layer, all columns"""
    mlp_deviation_s: float = 0.0
    """of one layer with experts: see `ExpertRouting.deviation`"""
    head_fixed_s: float = 0.0
    head_s: float = 0.0
    """the whole vocabulary"""
    saved_s: float = 0.0
    """what a stage with the head and whole layers leaves out: its last MLP for rows that are not sampled"""
    stage_s: float = 0.0
    """of every stage, however many layers it has"""
    first_s: float = 0.0
    """of the stage with the embedding, beside its layers: of the encoder"""
    num_steps: float = 0.0
    num_rows: float = 0.0
    """of hidden states that leave the stage, over all steps"""

    def __add__(self, other: Work) -> Work:
        return Work(**{field.name: getattr(self, field.name) + getattr(other, field.name) for field in fields(Work)})

    def __mul__(self, times: float) -> Work:
        return Work(**{field.name: getattr(self, field.name) * times for field in fields(Work)})

    def attention_part(self, share: float) -> float:
        """One layer's attention in a shard with a share of the KV heads; nothing where it has none."""
        return self.attention_fixed_s + share * self.attention_s if share else 0.0

    def mlp_part(self, share: float) -> float:
        """One layer's MLP in a shard with a share of the columns."""
        return self.mlp_fixed_s + share * self.mlp_s

    def experts_part(self, share: float) -> Uncertain:
        """One layer's MLP in a shard with a share of whole experts."""
        return self.mlp_part(share), sqrt(max(0.0, share * (1.0 - share))) * self.mlp_deviation_s

    def head_part(self, share: float) -> float:
        """The head in a shard with a share of the vocabulary."""
        return self.head_fixed_s + share * self.head_s

    def whole_s(self, num_layers: int, *, has_embedding: bool, has_head: bool) -> float:
        """Seconds of a stage that is not cut into shards."""
        layers_s = num_layers * (self.attention_part(1.0) + self.mlp_part(1.0))
        ends_s = self.first_s * has_embedding + (self.head_part(1.0) - self.saved_s) * has_head
        return self.stage_s + layers_s + ends_s


def decode_work(speed: WorkerSpeed, *, rows: float, context: float) -> Work:
    """One decode step.

    Args:
        speed: of the worker.
        rows: output tokens in the step.
        context: tokens that each of them looks back on, itself included.
    """
    attention_s = speed.attention.decode.at(rows) + context * speed.decode_context.at(rows)
    return Work(
        attention_fixed_s=_fixed_s(speed.attention, rows),
        attention_s=attention_s,
        mlp_fixed_s=_fixed_s(speed.mlp, rows),
        mlp_s=speed.mlp.decode.at(rows),
        mlp_deviation_s=_deviation(speed, rows) * speed.mlp.decode.at(rows),
        head_fixed_s=_fixed_s(speed.head, rows),
        head_s=speed.head.decode.at(rows),
        stage_s=speed.step_s,
        num_steps=1.0,
        num_rows=rows,
    )


def prefill_work(speed: WorkerSpeed, *, rows: float, context: float, samples: float) -> Work:
    """One step of prompt rows.

    Args:
        speed: of the worker.
        rows: prompt tokens in the step.
        context: tokens that each of them looks back on on average, itself included.
        samples: prompts that end in the step; may be a part of one, if only every so many steps see an end.
    """
    sampling_steps = min(1.0, samples)
    head_s = sampling_steps * speed.head.decode.at(samples / sampling_steps) if samples else 0.0
    return Work(
        attention_fixed_s=_fixed_s(speed.attention, rows),
        attention_s=speed.attention.prefill.at(rows) + rows * context * speed.prefill_context_s,
        mlp_fixed_s=_fixed_s(speed.mlp, rows),
        mlp_s=speed.mlp.prefill.at(rows),
        mlp_deviation_s=_deviation(speed, rows) * speed.mlp.prefill.at(rows),
        head_fixed_s=sampling_steps * speed.head.fixed_s + samples * speed.head.fixed_row_s,
        head_s=head_s,
        saved_s=max(0.0, speed.mlp.prefill.at(rows) - speed.mlp.decode.at(samples)),
        stage_s=speed.step_s,
        num_steps=1.0,
        num_rows=rows,
    )


def step_work(
    speed: WorkerSpeed,
    *,
    output_rows: int,
    output_context: float,
    prompt_rows: int,
    prompt_context: float,
    samples: int,
) -> Work:
    """One step of a flat batch. Where it has rows of both kinds, the matrices meet all of them at once.

    Args:
        speed: of the worker.
        output_rows: sequences with one row.
        output_context: tokens that all of these look back on, themselves included, summed.
        prompt_rows: rows of sequences with several.
        prompt_context: the same sum over the prompt rows.
        samples: rows whose next token is drawn, of both kinds.
    """
    if not prompt_rows:
        return decode_work(speed, rows=output_rows, context=output_context / output_rows)
    rows = output_rows + prompt_rows
    together = prefill_work(speed, rows=rows, context=prompt_context / rows, samples=samples)
    if not output_rows:
        return together
    own_context_s = output_context / output_rows * speed.decode_context.at(output_rows)
    return together + Work(attention_s=own_context_s)


def prompts_work(speed: WorkerSpeed, *, requests: float, prompt_tokens: int, chunk_tokens: int) -> Work:
    """The prompts of some requests, one after the other in as few steps as there can be, and their clips."""
    rows = requests * prompt_tokens
    whole_chunks, rest = divmod(rows, chunk_tokens)
    context = (prompt_tokens + 1) / 2
    total = clips_work(speed, requests)
    for count, size in ((whole_chunks, float(chunk_tokens)), (1.0, rest)):
        if size and count:
            total += prefill_work(speed, rows=size, context=context, samples=size / prompt_tokens) * count
    return total


def clips_work(speed: WorkerSpeed, count: float) -> Work:
    """Encoding so many clips, within the steps of their prompts; nothing where the model has no encoder."""
    clip = speed.clip
    if clip is None:
        return Work()
    return Work(attention_fixed_s=count * clip.layer_s, first_s=count * clip.encoder_s, num_rows=count * clip.num_rows)


def outputs_work(speed: WorkerSpeed, workload: Workload, *, requests: float) -> Work:
    """A step of the output rows of so many requests."""
    return decode_work(speed, rows=requests * workload.hypotheses, context=workload.mean_decode_context)


def wave_work(speed: WorkerSpeed, workload: Workload, *, requests: float, chunk_tokens: int) -> Work:
    """The wave of a micro-batch of so many requests, from their prompts to their last tokens."""
    prompts = prompts_work(speed, requests=requests, prompt_tokens=workload.prompt_tokens, chunk_tokens=chunk_tokens)
    return prompts + outputs_work(speed, workload, requests=requests) * (workload.output_tokens - 1)


def group_seconds(
    works: Sequence[Work],
    shares: Sequence[tuple[float, float, float]],
    *,
    num_layers: int,
    has_head: bool,
    sum_s: float,
    deals_experts: bool = False,
) -> float:
    """Seconds of a stage whose layers are cut into shards: every half of a layer waits for its slowest shard.

    Args:
        works: of each member.
        shares: of each member: of KV heads, columns, vocabulary rows.
        num_layers: of the stage.
        has_head: whether it is the last.
        sum_s: one all-reduce for every step of the work.
        deals_experts: whether the shares of columns are of whole experts.
    """
    members = list(zip(works, shares, strict=True))
    attention_s = max(work.attention_part(heads) for work, (heads, _, _) in members)
    if deals_experts:
        mlp_s = expected_slowest([work.experts_part(experts) for work, (_, experts, _) in members])
    else:
        mlp_s = max(work.mlp_part(columns) for work, (_, columns, _) in members)
    head_s = max(work.head_part(rows) for work, (_, _, rows) in members) if has_head else 0.0
    return max(work.stage_s for work in works) + num_layers * (attention_s + mlp_s + 2 * sum_s) + head_s


def transfer_seconds(link: LinkSpeed, work: Work, *, hidden_bytes: float) -> float:
    """Hidden states of all steps over a link, or summed by a group. `hidden_bytes`: of one row."""
    return work.num_steps * link.latency_s + work.num_rows * hidden_bytes / link.bytes_per_s


def _deviation(speed: WorkerSpeed, rows: float) -> float:
    return 0.0 if speed.experts is None else speed.experts.deviation(rows)


def _fixed_s(block: BlockSpeed, rows: float) -> float:
    return block.fixed_s + block.fixed_row_s * rows
