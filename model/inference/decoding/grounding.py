"""Summaries without names and numbers that the source does not have: a rule over tokens.

A name or number that is begun follows a trie of the source's own, in whatever pieces it is spelled, until it is one
of them; `model.support` says what names and numbers are. What a row may write next depends on the tokens that it holds
and its own source alone: on a state, which each token moves on. A unit is only begun if there is room to end it.
"""

from collections.abc import Iterable, Sequence
from itertools import chain
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from model.inference.decoding.lexicon import (
    AFTER_DOT,
    AFTER_MARK,
    BEGINS,
    BEGINS_INSIDE,
    IMPOSSIBLE,
    IN_ABBREVIATION,
    IN_NAME,
    IN_NUMBER,
    NUM_MODES,
    UNIT_BEGINS,
    Lexicon,
    Mode,
    is_byte,
    is_letter,
    mode_after,
    mode_after_name,
)
from model.support import NO_NAMES, folded, is_abbreviation
from model.transfer import send

_NEVER = 2**31  # tokens until a unit is whole that no pieces of the vocabulary make whole
_NO_KIND = -1  # of padding

State = int | str  # a mode, or the folded beginning of a name or number


class Edges(NamedTuple):
    """Pieces that may be written, by row: their ids, the states that they lead to, the tokens needed after them."""

    tokens: Tensor
    states: Tensor
    needs: Tensor


class Grounding:
    """What one source holds, made ready for the rule. Beginnings of names and numbers are nodes, the pieces edges.

    Tensors on the host: `rows` (n,) of the lexicon's tables and `is_whole` (n,) of the nodes; `onward` (n, K) edges
    from each node, `outset` (1, K') edges of what may begin, `outset_kinds` (1, K') where each may.
    """

    def __init__(self, lexicon: Lexicon, source_ids: Sequence[int]) -> None:
        """`source_ids` are those of the text, without its prompt."""
        self.lexicon = lexicon
        self._units = lexicon.units(source_ids) | NO_NAMES
        begun = _beginnings(self._units)
        tails = {
            unit[place:]
            for unit in self._units
            for place in range(1, len(unit))
            if is_byte(unit[place]) and not is_byte(unit[place - 1])
        }
        self._units |= tails
        self._nodes = begun | _beginnings(tails)
        onward = self._onward()
        needs = self._needs(onward)
        outset = self._outset(begun, {tail[0] for tail in tails})
        numbers = {node: number for number, node in enumerate(sorted(self._nodes))}

        def edges(rows: Sequence[Iterable[tuple[int, State]]]) -> Edges:
            kept = [
                [
                    (piece, NUM_MODES + numbers[state] if isinstance(state, str) else state, need)
                    for piece, state in row
                    if (need := _need(needs, state)) < _NEVER
                ]
                for row in rows
            ]
            # Padding is the token that is never written, and never in reach.
            width = max(1, max(map(len, kept), default=0))
            table = np.full((len(kept), width, 3), (0, 0, _NEVER))
            table[np.arange(width) < np.array([[len(row)] for row in kept])] = list(chain.from_iterable(kept)) or 0
            return Edges(*torch.from_numpy(table).unbind(-1))

        kinds = [kind for _, state, kind in outset if _need(needs, state) < _NEVER]
        self.rows = torch.tensor([_row_of(node) for node in numbers])
        self.is_whole = torch.tensor([self._is_whole(node) for node in numbers])
        self.onward = edges([onward[node].items() for node in numbers])
        self.outset = edges([[(piece, state) for piece, state, _ in outset]])
        self.outset_kinds = torch.tensor([kinds or [_NO_KIND]])

    def _onward(self) -> dict[str, dict[int, State]]:
        edges: dict[str, dict[int, State]] = {node: {} for node in self._nodes}
        for unit in self._units:
            within, beyond = self.lexicon.ways_along(unit)
            for node, ways in within:
                edges[node].update(ways)
            for node, piece in beyond:
                if (state := self._walk(node, self.lexicon.pieces[piece])) is not None:
                    edges[node][piece] = state
        return edges

    def _outset(self, begun: set[str], inside: set[str]) -> list[tuple[int, State, int]]:
        """`begun` are the beginnings of units, `inside` bytes that are within words of the source."""
        found: list[tuple[int, State, int]] = []
        for byte in sorted(inside):
            found += [(piece, byte, BEGINS_INSIDE) for piece, _ in self.lexicon.beginning[byte]]
        for node in sorted(begun):
            for piece, kind in self.lexicon.beginning.get(node, ()):
                state = self._walk(Mode.BETWEEN if kind == BEGINS else Mode.OPENING, self.lexicon.pieces[piece])
                if state is not None:
                    found.append((piece, state, kind))
        return found

    def _walk(self, state: State, text: str) -> State | None:
        """The state that `text` leads to from `state`; None where it makes what the source does not have."""
        for character in text:
            if isinstance(state, str):
                if _goes_on(state, character):
                    longer = state + folded(character)
                    if longer not in self._nodes:
                        if character not in ".,:" or state not in self._units:
                            return None
                        state = int(Mode.NUMBER_DOT if character == "." else Mode.NUMBER_MARK)
                    else:
                        state = longer
                    continue
                if not self._is_whole(state):
                    return None
                state = _mode_at_end(state)
            state = mode_after(state, character)
            if state == IMPOSSIBLE:
                return None
            if state == UNIT_BEGINS:
                state = folded(character)
                if state not in self._nodes:
                    return None
        return state

    def _is_whole(self, node: str) -> bool:
        return node in self._units or (node[-1] in ".,:" and node[:-1] in self._units)

    def _needs(self, onward: dict[str, dict[int, State]]) -> dict[str, int]:
        """The fewest tokens after which each node is whole."""
        needs = {node: 0 if self._is_whole(node) else _NEVER for node in onward}
        order, changes = sorted(onward, key=len, reverse=True), True
        while changes:  # twice, as edges lead to longer nodes, but for rare pieces of several units
            changes = False
            for node in order:
                if needs[node] and (states := onward[node].values()):
                    need = 1 + min(_need(needs, state) for state in states)
                    changes |= need < needs[node]
                    needs[node] = min(needs[node], need)
        return needs


def _beginnings(units: Iterable[str]) -> set[str]:
    return {unit[:end] for unit in units for end in range(1, len(unit) + 1)}


def _need(needs: dict[str, int], state: State) -> int:
    return needs[state] if isinstance(state, str) else 0


def _goes_on(node: str, character: str) -> bool:
    if not node[0].isdecimal():
        return is_letter(character)
    return character.isdecimal() or (character in ".,:" and node[-1].isdecimal())


def _mode_at_end(node: str) -> int:
    if not node[0].isdecimal():
        return mode_after_name(node)
    return int({".": Mode.NUMBER_DOT, ",": Mode.NUMBER_MARK, ":": Mode.NUMBER_MARK}.get(node[-1], Mode.NUMBER))


def _row_of(node: str) -> int:
    if not node[0].isdecimal():
        return IN_ABBREVIATION if is_abbreviation(node) else IN_NAME
    return {".": AFTER_DOT, ",": AFTER_MARK, ":": AFTER_MARK}.get(node[-1], IN_NUMBER)


class Grounded:
    """The rule for rows in flight: those with a `Grounding`; others are left alone."""

    def __init__(
        self,
        groundings: Sequence[Grounding | None],
        max_new_tokens: Sequence[int],
        num_beams: int,
        vocab_size: int,
        device: torch.device,
    ) -> None:
        """`groundings` and `max_new_tokens` are those of the documents; at least one has a grounding."""
        documents = [number for number, one in enumerate(groundings) if one is not None]
        held = [one for one in groundings if one is not None]
        self._kinds, self._barred, self._next_modes = held[0].lexicon.on(device, vocab_size)
        beams = torch.arange(num_beams)
        rows = (torch.tensor(documents)[:, None] * num_beams + beams).flatten()
        self._rows = None if len(held) == len(groundings) else send(rows, device)
        sizes = torch.tensor([0, *(len(one.rows) for one in held)])
        self._firsts = send(sizes.cumsum(0)[:-1].repeat_interleave(num_beams), device)  # node 0 of each row's source
        self._lengths = send(torch.tensor([max_new_tokens[n] for n in documents]).repeat_interleave(num_beams), device)
        self._table_rows = send(torch.cat([one.rows for one in held]), device)
        self._is_whole = send(torch.cat([one.is_whole for one in held]), device)
        self._onward = _stacked([one.onward for one in held], 1, device)
        self._outset = _stacked([one.outset for one in held], num_beams, device)
        self._outset_kinds = send(
            _widened([one.outset_kinds for one in held], _NO_KIND).repeat_interleave(num_beams, 0), device
        )

    def hold(self, scores: Tensor, states: Tensor) -> Tensor:
        """Scores of what goes on with each row's unit, to be kept from bans that would leave it cut off."""
        nodes, _ = self._nodes(self._chosen(states))
        return self._chosen(scores).gather(1, self._onward.tokens[nodes])

    def only(self, held: Tensor, states: Tensor, allowed: Tensor) -> Tensor:
        """`held` of `hold` where `allowed` (R, V) is 1; all of it in a row in which that leaves nothing."""
        nodes, is_node = self._nodes(self._chosen(states))
        tokens = self._onward.tokens[nodes]
        is_kept = (self._chosen(allowed).gather(1, tokens) > 0) & (tokens > 0)
        return held.masked_fill(~is_kept & is_kept.any(1, keepdim=True) & is_node[:, None], float("-inf"))

    def ban(self, scores: Tensor, states: Tensor, positions: Tensor, held: Tensor) -> None:
        """-inf in `scores` (R, V) at what would make a name or number that the source does not have.

        `states` and `positions` (R,) are the rows', `held` is of `hold`.
        """
        states, chosen = self._chosen(states), self._chosen(scores)
        nodes, is_node = self._nodes(states)
        table_rows = torch.where(is_node, self._table_rows[nodes], states)
        is_whole = (~is_node | self._is_whole[nodes])[:, None]
        left = (self._lengths - self._chosen(positions) - 1)[:, None]  # tokens after the coming one
        before = chosen.gather(1, self._outset.tokens)
        chosen.masked_fill_(self._barred[torch.where(is_whole[:, 0], table_rows, -1)], float("-inf"))
        kinds = self._kinds[table_rows[:, None], self._outset.tokens]
        begins = is_whole & (kinds == self._outset_kinds) & (self._outset.needs <= left)
        _restore(chosen, self._outset.tokens, before, begins)
        goes_on = is_node[:, None] & (self._onward.needs[nodes] <= left)
        _restore(chosen, self._onward.tokens[nodes], held, goes_on)
        if self._rows is not None:
            scores[self._rows] = chosen

    def follow(self, states: Tensor, token_ids: Tensor) -> Tensor:
        """The states (R,) after `token_ids` (R,)."""
        chosen, tokens = self._chosen(states), self._chosen(token_ids)[:, None]
        nodes, is_node = self._nodes(chosen)
        table_rows = torch.where(is_node, self._table_rows[nodes], chosen)
        kinds = self._kinds[table_rows[:, None], tokens]
        after = self._next_modes[table_rows, tokens[:, 0]]
        begun = (self._outset.tokens == tokens) & (self._outset_kinds == kinds)
        after = _taken(begun, self._outset.states, after)
        gone_on = (self._onward.tokens[nodes] == tokens) & (self._onward.needs[nodes] < _NEVER) & is_node[:, None]
        after = _taken(gone_on, self._onward.states[nodes], after)
        if self._rows is None:
            return after
        followed = states.clone()
        followed[self._rows] = after
        return followed

    def _chosen(self, rows: Tensor) -> Tensor:
        return rows if self._rows is None else rows[self._rows]

    def _nodes(self, states: Tensor) -> tuple[Tensor, Tensor]:
        """Each row's node, any where it is at none; and whether it is at one."""
        is_node = states >= NUM_MODES
        return torch.where(is_node, states - NUM_MODES + self._firsts, 0), is_node


def _restore(scores: Tensor, tokens: Tensor, values: Tensor, allowed: Tensor) -> None:
    # A token may be there twice, once allowed.
    scores.scatter_reduce_(1, tokens, values.masked_fill(~allowed, float("-inf")), "amax")


def _taken(is_taken: Tensor, states: Tensor, otherwise: Tensor) -> Tensor:
    found = torch.where(is_taken, states, -1).amax(1)
    return torch.where(found >= 0, found, otherwise)


def _stacked(edges: Sequence[Edges], num_beams: int, device: torch.device) -> Edges:
    fillings = (0, 0, _NEVER)
    columns = [
        _widened(list(column), filling) for column, filling in zip(zip(*edges, strict=True), fillings, strict=True)
    ]
    return Edges(*(send(column.repeat_interleave(num_beams, 0), device) for column in columns))


def _widened(tables: Sequence[Tensor], filling: int) -> Tensor:
    width = max(table.shape[1] for table in tables)
    return torch.cat([torch.nn.functional.pad(one, (0, width - one.shape[1]), value=filling) for one in tables])
