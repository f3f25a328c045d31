"""The work of a stage in seconds: for a decode step, a prefill, or a wave of a micro-batch.

A *wave* is the life of a micro-batch of requests that run in lockstep: their prompts, then one output token of each per
step. The first output token comes from the prompt's last row, so there is one decode step less than output tokens.
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
    """Seconds of some work on one worker. Linear: successive pieces of work add up.

    A shard takes the fixed seconds of a block and its share of the others: of KV heads, MLP columns or vocabulary rows.
    """

    attention_fixed_s: float = 0.0
    """Fixed seconds of one layer's attention."""
    attention_s: float = 0.0
    """Seconds of one layer's attention, all heads."""
    mlp_fixed_s: float = 0.0
    """Fixed seconds of one layer's MLP."""
    mlp_s: float = 0.0
    """Seconds of one layer's MLP, all columns."""
    mlp_deviation_s: float = 0.0
    """Standard deviation of one layer with experts, see `ExpertRouting.deviation`."""
    head_fixed_s: float = 0.0
    head_s: float = 0.0
    """Seconds of the head, the whole vocabulary."""
    saved_s: float = 0.0
    """Seconds that a stage with the head and whole layers saves: its last MLP for rows that are not sampled."""
    stage_s: float = 0.0
    """Seconds of every stage, whatever its number of layers."""
    first_s: float = 0.0
    """Seconds of the encoder, which is in the stage with the embedding."""
    num_steps: float = 0.0
    num_rows: float = 0.0
    """Rows of hidden states that leave the stage, over all steps."""

    def __add__(self, other: Work) -> Work:
        return Work(**{field.name: getattr(self, field.name) + getattr(other, field.name) for field in fields(Work)})

    def __mul__(self, times: float) -> Work:
        return Work(**{field.name: getattr(self, field.name) * times for field in fields(Work)})

    def attention_part(self, share: float) -> float:
        """Seconds of one layer's attention in a shard with a share of the KV heads; 0 without any."""
        return self.attention_fixed_s + share * self.attention_s if share else 0.0

    def mlp_part(self, share: float) -> float:
        """Seconds of one layer's MLP in a shard with a share of the columns."""
        return self.mlp_fixed_s + share * self.mlp_s

    def experts_part(self, share: float) -> Uncertain:
        """Seconds of one layer's MLP in a shard with a share of whole experts: mean and standard deviation."""
        return self.mlp_part(share), sqrt(max(0.0, share * (1.0 - share))) * self.mlp_deviation_s

    def head_part(self, share: float) -> float:
        """Seconds of the head in a shard with a share of the vocabulary."""
        return self.head_fixed_s + share * self.head_s

    def whole_s(self, num_layers: int, *, has_embedding: bool, has_head: bool) -> float:
        """Seconds of a stage that is not divided into shards."""
        layers_s = num_layers * (self.attention_part(1.0) + self.mlp_part(1.0))
        ends_s = self.first_s * has_embedding + (self.head_part(1.0) - self.saved_s) * has_head
        return self.stage_s + layers_s + ends_s


def decode_work(speed: WorkerSpeed, *, rows: float, context: float) -> Work:
    """The work of one decode step.

    Args:
        speed: the worker's speed.
        rows: output tokens in the step.
        context: tokens that each of them attends over, including itself.
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
    """The work of one step of prompt rows.

    Args:
        speed: the worker's speed.
        rows: prompt tokens in the step.
        context: the mean number of tokens that each of them attends over, including itself.
        samples: prompts that end in the step; a fraction if prompts end only every few steps.
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
    """The work of one step of a flat batch. Matrix products cover rows of both kinds at once.

    Args:
        speed: the worker's speed.
        output_rows: sequences with one row.
        output_context: tokens that these rows attend over, including themselves, summed over the rows.
        prompt_rows: rows of sequences with several.
        prompt_context: the same sum over the prompt rows.
        samples: rows of both kinds whose next token is sampled.
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
    """The work of the prompts of some requests, one after the other in as few steps as possible, and their clips."""
    rows = requests * prompt_tokens
    whole_chunks, rest = divmod(rows, chunk_tokens)
    context = (prompt_tokens + 1) / 2
    total = clips_work(speed, requests)
    for count, size in ((whole_chunks, float(chunk_tokens)), (1.0, rest)):
        if size and count:
            total += prefill_work(speed, rows=size, context=context, samples=size / prompt_tokens) * count
    return total


def clips_work(speed: WorkerSpeed, count: float) -> Work:
    """The work of encoding so many clips in the steps of their prompts; none if the model has no encoder."""
    clip = speed.clip
    if clip is None:
        return Work()
    return Work(attention_fixed_s=count * clip.layer_s, first_s=count * clip.encoder_s, num_rows=count * clip.num_rows)


def outputs_work(speed: WorkerSpeed, workload: Workload, *, requests: float) -> Work:
    """The work of one step with the output rows of so many requests."""
    return decode_work(speed, rows=requests * workload.hypotheses, context=workload.mean_decode_context)


def wave_work(speed: WorkerSpeed, workload: Workload, *, requests: float, chunk_tokens: int) -> Work:
    """The work of the wave of a micro-batch of so many requests, from their prompts to their last tokens."""
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
    """Seconds of a stage whose layers are divided into shards: attention and MLP each wait for their slowest shard.

    Args:
        works: the work of each member.
        shares: each member's shares of KV heads, columns and vocabulary rows.
        num_layers: layers of the stage.
        has_head: whether it is the last stage.
        sum_s: seconds of one all-reduce in every step of the work.
        deals_experts: whether the shares of columns are shares of whole experts.
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
    """Seconds for the hidden states of all steps over a link, or for their sum in a group. `hidden_bytes`: of one
    row."""
    return work.num_steps * link.latency_s + work.num_rows * hidden_bytes / link.bytes_per_s


def _deviation(speed: WorkerSpeed, rows: float) -> float:
    return 0.0 if speed.experts is None else speed.experts.deviation(rows)


def _fixed_s(block: BlockSpeed, rows: float) -> float:
    return block.fixed_s + block.fixed_row_s * rows
