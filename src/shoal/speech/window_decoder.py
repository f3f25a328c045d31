"""Decodes one window of a sound by requests to the language model's engine.

A window is two requests over one clip: one row whose logits give the language and the probability of silence, and the
text, by beam search. If the text is poor it is decoded again at a higher temperature, as the best of several draws. All
requests share the encoder's output, and survive a lost worker as any request does.

Shapes: H heads, R rows, P positions, V vocabulary.
"""

from __future__ import annotations

import hashlib
import math
import uuid
from collections.abc import Sequence

import numpy as np

from shoal.arrays import F32
from shoal.core.sequences.beams import BeamSearch, Hypothesis
from shoal.core.sequences.request import Clip, ClipAttention, Request, RequestId, TokenGuide, TokenProduced
from shoal.generation.data_plane import DataPlane
from shoal.model.decoder_config import DecoderConfig, EncoderConfig
from shoal.protocol.language_messages import Sampling
from shoal.speech.options import SpeechOptions
from shoal.speech.rules import TranscriptGuide, WordGuide
from shoal.speech.sound.features import HOP_SAMPLES, log_mel
from shoal.speech.transcript import SpeechSegment
from shoal.speech.vocabulary import MAX_ALIGNMENT_HEADS, SpeechVocabulary
from shoal.speech.window import Decoded
from shoal.speech.words import shared_out, spoken_words


class WindowDecoder:
    """Decodes windows with one served model."""

    def __init__(
        self, data_plane: DataPlane, decoder: DecoderConfig, encoder: EncoderConfig, vocabulary: SpeechVocabulary
    ) -> None:
        """
        Args:
            data_plane: of the model.
            decoder: of the model.
            encoder: its encoder.
            vocabulary: of the model.
        """
        self._word_guide = WordGuide(vocabulary)
        self._guide = TranscriptGuide(vocabulary, has_timestamps=True)
        self._heads = vocabulary.alignment_heads or _late_heads(decoder)
        self._data_plane, self._encoder, self._vocabulary = data_plane, encoder, vocabulary
        self._tokenizer = data_plane.tokenizer

    async def with_words(
        self,
        clip: Clip,
        segments: Sequence[SpeechSegment],
        options: SpeechOptions,
        language: str,
        num_frames: int,
        last_end_s: float,
    ) -> Sequence[SpeechSegment]:
        """The segments of a window with their words. Their text is computed once more, to get the attention over the
        clip."""
        vocabulary = self._vocabulary
        text = [token for one in segments for token in one.token_ids if vocabulary.is_word(token)]
        prompt = (*self._beginning(options, language), vocabulary.no_timestamps)
        num_positions = max(1, min(num_frames, self._encoder.num_frames) // 2)
        request = self._request(
            clip,
            prompt,
            len(text) + 2,
            Sampling(temperature=0.0, num_logprobs=0),
            guide=self._word_guide,
            targets=(*text, vocabulary.end, vocabulary.end),
            attention=ClipAttention(heads=self._heads, num_positions=num_positions),
        )
        produced = (await self._data_plane.collect([request], options.timeout_s))[request.request_id]

        def find() -> Sequence[SpeechSegment]:
            parts = [np.frombuffer(part, "<f2") for part in produced[-1].attention]
            attention_HRP = np.concatenate(
                [part.reshape(len(self._heads), -1, num_positions) for part in parts], axis=1
            ).astype(np.float32)
            likelihoods = [math.exp(one.logprobs.logprob) for one in produced if one.logprobs is not None]
            words = spoken_words(
                attention_HRP,
                text,
                likelihoods[: len(text)],
                self._tokenizer.decode,
                num_before=len(prompt) - 1,
                language=language,
            )
            origin_s = segments[0].seek_frames / 100
            return shared_out(words, segments, vocabulary.is_word, origin_s=origin_s, last_end_s=last_end_s)

        return await self._data_plane.readers.run(find)

    async def clip(self, samples_S: F32, start: int, stop: int) -> Clip:
        """The features of some samples, computed off the event loop."""
        encoder = self._encoder

        def make() -> Clip:
            features_FM = log_mel(samples_S[start:stop], encoder.num_mels, encoder.num_frames)
            features_FM[(stop - start) // HOP_SAMPLES :] = 0.0  # padded as openai/whisper's `transcribe` does
            features = features_FM.tobytes()
            key = hashlib.blake2b(features, digest_size=16).digest()
            return Clip(key=key, num_rows=encoder.num_positions, features=features)

        return await self._data_plane.readers.run(make)

    async def listen(self, clip: Clip, options: SpeechOptions) -> tuple[str, float]:
        """The most likely language, and the probability of silence."""
        request = self._request(clip, (self._vocabulary.start,), 1, Sampling(temperature=0.0), want_logits=True)
        produced = (await self._data_plane.collect([request], options.timeout_s))[request.request_id]
        return self._heard(produced)

    def _heard(self, produced: Sequence[TokenProduced]) -> tuple[str, float]:
        logits_V = np.frombuffer(produced[0].logits, "<f4").astype(np.float64)
        languages, no_speech = self._vocabulary.languages, self._vocabulary.no_speech
        language = max(languages, key=lambda code: logits_V[languages[code]]) if languages else "en"
        weights_V = np.exp(logits_V - logits_V.max())
        return language, float(weights_V[no_speech] / weights_V.sum()) if no_speech is not None else 0.0

    async def decode(self, clip: Clip, options: SpeechOptions, language: str, before: tuple[int, ...]) -> Decoded:
        """The first decoding whose text is accepted, otherwise the last one."""
        no_speech_prob: float | None = None
        for temperature in options.temperatures:
            decoded, no_speech_prob = await self._decode_at(
                clip, temperature, options, language, before, no_speech_prob
            )
            if options.thresholds.believe(decoded):
                break
        return decoded  # pyright: ignore[reportPossiblyUnboundVariable]  there is a temperature

    async def _decode_at(
        self,
        clip: Clip,
        temperature: float,
        options: SpeechOptions,
        language: str,
        before: tuple[int, ...],
        no_speech_prob: float | None,
    ) -> tuple[Decoded, float]:
        vocabulary = self._vocabulary
        texts = self._text_requests(clip, temperature, options, language, before)
        requests = list(texts)
        if no_speech_prob is None:
            requests.append(self._request(clip, (vocabulary.start,), 1, Sampling(temperature=0.0), want_logits=True))
        produced = await self._data_plane.collect(requests, options.timeout_s)
        if no_speech_prob is None:
            _, no_speech_prob = self._heard(produced[requests[-1].request_id])
        stops = frozenset({vocabulary.end})
        said = [_hypothesis(produced[text.request_id]) for text in texts]
        best = max(said, key=lambda one: options.search.score(one, stops))
        ids = tuple(token for token in best.token_ids if token != vocabulary.end)
        words = [token for token in ids if token < vocabulary.first_timestamp]
        decoded = Decoded(
            token_ids=ids,
            text=self._tokenizer.decode(words).strip(),
            avg_logprob=best.total / (len(ids) + 1),
            temperature=temperature,
            no_speech_prob=no_speech_prob,
        )
        return decoded, no_speech_prob

    def _text_requests(
        self, clip: Clip, temperature: float, options: SpeechOptions, language: str, before: tuple[int, ...]
    ) -> list[Request]:
        """One request at temperature 0, otherwise one for each draw."""
        vocabulary = self._vocabulary
        prompt = [*before, *self._beginning(options, language)]
        room = self._data_plane.max_context - len(prompt)
        max_tokens = min(room, self._data_plane.max_context // 2)
        beams = options.search if temperature == 0.0 and options.beam_size > 1 else None
        num_draws = options.best_of if temperature > 0.0 else 1
        return [
            self._request(
                clip,
                tuple(prompt),
                max_tokens,
                Sampling(
                    temperature=temperature,
                    seed=seed,
                    num_logprobs=0 if beams is None else beams.num_candidates,
                    first_timestamp=vocabulary.first_timestamp,
                ),
                guide=self._guide,
                beams=beams,
            )
            for seed in range(num_draws)
        ]

    def _beginning(self, options: SpeechOptions, language: str) -> list[int]:
        """Tokens with which a text begins."""
        vocabulary = self._vocabulary
        if not vocabulary.languages:
            return [vocabulary.start]
        task = vocabulary.translate if options.task == "translate" else vocabulary.transcribe
        return [vocabulary.start, vocabulary.language_token(language), *([task] if task is not None else [])]

    def _request(
        self,
        clip: Clip,
        prompt: tuple[int, ...],
        max_tokens: int,
        sampling: Sampling,
        *,
        guide: TokenGuide | None = None,
        targets: tuple[int, ...] = (),
        attention: ClipAttention | None = None,
        beams: BeamSearch | None = None,
        want_logits: bool = False,
    ) -> Request:
        return Request(
            request_id=RequestId(f"speech-{uuid.uuid4().hex}"),
            prompt_ids=prompt,
            max_tokens=max_tokens,
            sampling=sampling,
            stop_token_ids=frozenset({self._vocabulary.end}),
            clip=clip,
            guide=guide,
            targets=targets,
            attention=attention,
            beams=beams,
            want_logits=want_logits,
        )


def _hypothesis(produced: Sequence[TokenProduced]) -> Hypothesis:
    logprobs = tuple(token.logprobs.logprob for token in produced if token.logprobs is not None)
    return Hypothesis(tuple(token.token_id for token in produced), logprobs, sum(logprobs))


def _late_heads(decoder: DecoderConfig) -> tuple[tuple[int, int], ...]:
    """The heads in the later half of the layers, or the last MAX_ALIGNMENT_HEADS of them, for a model that does not say
    which heads follow the sound. Source: openai/whisper, whisper/model.py, which uses all heads of that half."""
    layers = range(decoder.num_layers // 2, decoder.num_layers)
    return tuple((layer, head) for layer in layers for head in range(decoder.num_heads))[-MAX_ALIGNMENT_HEADS:]
