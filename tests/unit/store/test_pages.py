"""Page trees against a dict: words, sharing, ids, and what a checkpoint would find."""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from segue.store.check import tree_problems
from segue.store.contract import ReadPages, StoreCorrupt, StoreTooNew
from segue.store.page_format import FAN_OUT, LEAF_WORDS
from segue.store.pages import Page, PageSpace, PageTree

LEAF_EDGES = [0, LEAF_WORDS - 1, LEAF_WORDS, FAN_OUT * LEAF_WORDS - 1, FAN_OUT * LEAF_WORDS]
INDEXES = st.sampled_from(LEAF_EDGES) | st.integers(0, 2000) | st.integers(0, 1 << 26)
WORDS = st.sampled_from([0, 0, 1, 2**64 - 1]) | st.integers(0, 2**64 - 1)


def reader(pages: Mapping[int, bytes]) -> ReadPages:
    """What a store would give of these pages."""

    def read_pages(ids: Sequence[int]) -> list[bytes]:
        return [pages[page_id] for page_id in ids]

    return read_pages


def walk(page: Page, level: int, seen: dict[int, int], dirty_parent: bool) -> None:
    """Count references; assert that dirty pages have dirty parents and levels are right."""
    seen[id(page)] = seen.get(id(page), 0) + 1
    assert dirty_parent or page.page_id
    assert len(page.children) == (FAN_OUT if level else 0)
    assert len(page.words) == (0 if level else LEAF_WORDS)
    if seen[id(page)] > 1:
        return
    for child in page.children:
        if child is not None:
            walk(child, level - 1, seen, not page.page_id)


def assert_consistent(space: PageSpace, trees: list[PageTree]) -> None:
    """Holders are references, clean pages are exactly those of the space."""
    seen: dict[int, int] = {}
    pages: dict[int, Page] = {}

    def collect(page: Page) -> None:
        pages[id(page)] = page
        for child in page.children:
            if child is not None and id(child) not in pages:
                collect(child)

    for tree in trees:
        if tree._root is not None:
            walk(tree._root, tree._height, seen, True)
            collect(tree._root)
    assert {key: page.holders for key, page in pages.items()} == seen
    clean = {page.page_id: page for page in pages.values() if page.page_id}
    assert clean == space.clean


class Trees(RuleBasedStateMachine):
    """Several trees of one space, each beside a dict; a dict of pages for the durable store."""

    def __init__(self) -> None:
        super().__init__()
        self.space = PageSpace()
        self.trees: list[tuple[PageTree, dict[int, int]]] = [(PageTree(self.space), {})]
        self.durable: dict[int, bytes] = {}

    def pick(self, which: int) -> tuple[PageTree, dict[int, int]]:
        return self.trees[which % len(self.trees)]

    @rule(which=st.integers(0, 9), index=INDEXES, word=WORDS)
    def put(self, which: int, index: int, word: int) -> None:
        tree, words = self.pick(which)
        tree.set(index, word)
        words.pop(index, None)
        if word:
            words[index] = word
        assert tree.get(index) == word

    @rule(which=st.integers(0, 9), first=INDEXES, count=st.integers(0, 1 << 18))
    def clear(self, which: int, first: int, count: int) -> None:
        tree, words = self.pick(which)
        tree.clear(first, count)
        for index in [i for i in words if first <= i < first + count]:
            del words[index]

    @rule(which=st.integers(0, 9), rng=st.randoms(use_true_random=False))
    def take(self, which: int, rng: Random) -> None:
        tree, words = self.pick(which)
        indexes = rng.sample(sorted(words), rng.randint(0, len(words)))
        taken = tree.take(np.array(indexes, np.uint64))
        assert taken.tolist() == [words.pop(index) for index in indexes]

    @rule(which=st.integers(0, 9), first=INDEXES, count=st.integers(0, 1500))
    def look(self, which: int, first: int, count: int) -> None:
        tree, words = self.pick(which)
        expected = array("Q", [words.get(i, 0) for i in range(first, first + count)])
        assert tree.slice(first, count) == expected

    @precondition(lambda self: len(self.trees) < 6)
    @rule(which=st.integers(0, 9))
    def clone(self, which: int) -> None:
        tree, words = self.pick(which)
        self.trees.append((tree.clone(), dict(words)))

    @precondition(lambda self: len(self.trees) > 1)
    @rule(which=st.integers(0, 9))
    def drop(self, which: int) -> None:
        tree, _ = self.trees.pop(which % len(self.trees))
        tree.drop()
        assert tree.count == 0 and not list(tree.items())

    @rule()
    def checkpoint(self) -> None:
        out: dict[int, bytes] = {}
        roots = [tree.flush(out) for tree, _ in self.trees]
        self.store(roots, out)

    @rule(which=st.integers(0, 9), index=INDEXES, word=WORDS)
    def checkpoint_in_steps(self, which: int, index: int, word: int) -> None:
        """Clones are flushed page by page while the originals go on changing."""
        out: dict[int, bytes] = {}
        frozen = [tree.clone() for tree, _ in self.trees]
        expected = [dict(words) for _, words in self.trees]
        roots = []
        for tree in frozen:
            steps = tree.flush_steps(out, pages_per_step=1)
            while True:
                try:
                    next(steps)
                except StopIteration as stop:
                    roots.append(stop.value)
                    break
                self.put(which, index, word)
                index += LEAF_WORDS
        self.store(roots, out, expected)
        for tree in frozen:
            tree.drop()

    def store(
        self,
        roots: list[bytes],
        out: dict[int, bytes],
        expected: list[dict[int, int]] | None = None,
    ) -> None:
        assert not out.keys() & self.durable.keys()
        self.durable.update(out)
        for page_id in self.space.take_freed():
            del self.durable[page_id]
        loaded_space = PageSpace(self.space.next_id)
        loaded = [PageTree.load(loaded_space, root, reader(self.durable)) for root in roots]
        for tree, words in zip(loaded, expected or [w for _, w in self.trees], strict=True):
            assert dict(tree.items()) == words
            assert tree.count == len(words)
        assert_consistent(loaded_space, loaded)
        assert loaded_space.clean.keys() == self.durable.keys()
        seen: dict[int, tuple[int, int]] = {}
        for root in roots:
            assert list(tree_problems(root, self.durable.__getitem__, seen)) == []
        assert seen.keys() == self.durable.keys()

    @invariant()
    def counts_and_holders(self) -> None:
        for tree, words in self.trees:
            assert tree.count == len(words)
        assert_consistent(self.space, [tree for tree, _ in self.trees])

    def teardown(self) -> None:
        for tree, words in self.trees:
            assert dict(tree.items()) == words
            tree.drop()
        assert not self.space.clean


Trees.TestCase.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
TestTrees = Trees.TestCase


def test_indexes_and_words_out_of_range_are_refused() -> None:
    tree = PageTree(PageSpace())
    for call in (tree.get, tree._leaf, lambda i: tree.set(i, 1), lambda i: tree.clear(i, 1)):
        with pytest.raises(IndexError):
            call(-1)
    with pytest.raises(IndexError):
        tree.set(1 << 57, 1)
    for word in (-1, 1 << 64):
        with pytest.raises(OverflowError):
            tree.set(5, word)
    assert tree.get(1 << 60) == tree.get(5) == tree.count == 0


def test_a_clone_shares_every_page_until_one_changes() -> None:
    space = PageSpace()
    tree = PageTree(space)
    for index in range(0, 100 * LEAF_WORDS, LEAF_WORDS):
        tree.set(index, index + 1)
    out: dict[int, bytes] = {}
    root = tree.flush(out)
    copy = tree.clone()
    assert copy.flush(out) == root and len(out) == 101
    copy.set(7, 7)
    again: dict[int, bytes] = {}
    assert copy.flush(again) != root
    assert len(again) == 2 and space.take_freed() == []
    tree.drop()
    # The tree's own leaf and directory go; the 99 leaves that the copy reads stay.
    assert len(space.take_freed()) == 2


def test_setting_what_is_there_already_writes_one_path_and_zero_to_zero_nothing() -> None:
    tree = PageTree(PageSpace())
    tree.set(3, 0)
    assert tree.flush({}) == PageTree(PageSpace()).flush({})
    tree.set(3, 4)
    out: dict[int, bytes] = {}
    tree.flush(out)
    tree.set(LEAF_WORDS * 9, 0)
    out.clear()
    tree.flush(out)
    assert out == {}


def made() -> tuple[bytes, dict[int, bytes], PageSpace]:
    """A tree of two levels: three leaves, one directory."""
    space = PageSpace()
    tree = PageTree(space)
    for index in (0, LEAF_WORDS, 2 * LEAF_WORDS):
        tree.set(index, index + 1)
    out: dict[int, bytes] = {}
    return tree.flush(out), out, space


def damage_of(root: bytes, pages: dict[int, bytes], space: PageSpace) -> str:
    with pytest.raises(StoreCorrupt) as caught:
        PageTree.load(PageSpace(space.next_id), root, reader(pages))
    problems = list(tree_problems(root, pages.__getitem__, {}))
    assert caught.value.what == problems[0]
    return caught.value.what


def test_every_flipped_bit_in_every_page_is_found_and_named() -> None:
    root, pages, space = made()
    for page_id, data in pages.items():
        for bit in range(0, len(data) * 8, 61):
            flipped = bytearray(data)
            flipped[bit // 8] ^= 1 << bit % 8
            what = damage_of(root, pages | {page_id: bytes(flipped)}, space)
            assert what.startswith(f"page {page_id}: "), what


def test_a_whole_page_in_the_place_of_another_is_found() -> None:
    root, pages, space = made()
    assert damage_of(root, pages | {1: pages[2]}, space) == "page 1: holds page 2"


def test_an_older_page_with_a_good_crc_is_found_by_its_parent() -> None:
    root, pages, space = made()
    other = PageTree(PageSpace())
    other.set(0, 99)
    old: dict[int, bytes] = {}
    other.flush(old)
    what = damage_of(root, pages | {1: old[1]}, space)
    assert what.startswith("page 1: crc") and "its parent says" in what


@pytest.mark.parametrize("data", [b"", b"SgPg", bytes(24), bytes(4120)])
def test_what_is_no_page_is_refused(data: bytes) -> None:
    root, pages, space = made()
    assert damage_of(root, pages | {2: data}, space).startswith("page 2: ")


@pytest.mark.parametrize("change", [b"", bytes(16), bytes(17), b"\x01\x07" + bytes(14)])
def test_what_is_no_root_is_refused(change: bytes) -> None:
    with pytest.raises((StoreCorrupt, StoreTooNew)):
        PageTree.load(PageSpace(), change, lambda _: pytest.fail("a page was read"))


def test_a_page_under_two_levels_is_refused() -> None:
    root, pages, space = made()
    version_height = bytearray(root)
    version_height[1] = 2
    what: Any = damage_of(bytes(version_height), pages, space)
    assert what == "page 4: level 1, should be 2"
