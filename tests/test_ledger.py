"""The Merkle tree against an independent implementation, and notes against ones that others signed."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime, timedelta, timezone
from hashlib import sha256
from pathlib import Path

import pymerkle
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asm_daemon.crypto import KeyPurpose, Keyring, SigningKey, verify_signature
from asm_daemon.keystores import create_store
from asm_daemon.ledger import (
    EMPTY_ROOT,
    BadNote,
    Checkpoint,
    Frontier,
    NoteKey,
    Tree,
    canonical_json,
    complete_subtrees,
    consistency_ranges,
    cosign,
    fold_subtrees,
    inclusion_ranges,
    instant_text,
    leaf_hash,
    node_hash,
    open_checkpoint,
    open_cosignature,
    open_note,
    read_checkpoint,
    read_vkey,
    root,
    sign_checkpoint,
    sign_note,
    verify_consistency,
    verify_inclusion,
    write_vkey,
)

NOW = datetime(2026, 11, 23, 8, 0, tzinfo=UTC)
SIZES = range(1, 131)
LEAVES = [leaf_hash(b"entry %d" % number) for number in range(600)]


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> SigningKey:
    folder: Path = tmp_path_factory.mktemp("keys") / "store"
    return Keyring(create_store(folder, [], NOW).read).signing_key(KeyPurpose.CHECKPOINT)


# --- canonical bytes ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [NOW, {"at": NOW}, {1: "x"}, b"bytes", 2**64, "\ud800", object()])
def test_what_has_no_single_json_form_is_refused(value: object) -> None:
    with pytest.raises(TypeError):
        canonical_json(value)


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


@given(PLAIN)
def test_canonical_json_is_what_any_json_library_writes_with_sorted_keys_and_no_spaces(value: object) -> None:
    assert (
        canonical_json(value) == json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    )


def test_an_instant_is_written_in_utc_with_six_decimals() -> None:
    hanoi = timezone(timedelta(hours=7))
    assert instant_text(datetime(2026, 11, 23, 15, 0, tzinfo=hanoi)) == "2026-11-23T08:00:00.000000Z"
    assert instant_text(datetime(2026, 11, 23, 8, 0, 0, 120, tzinfo=UTC)) == "2026-11-23T08:00:00.000120Z"


# --- the tree ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("index", "size"), [(-1, 5), (5, 5), (0, 0)])
def test_a_leaf_outside_the_tree_has_no_proof(index: int, size: int) -> None:
    with pytest.raises(ValueError, match="no such leaf"):
        inclusion_ranges(index, size)
    assert not verify_inclusion(LEAVES[0], index, size, [], EMPTY_ROOT)


@pytest.mark.parametrize(("old", "new"), [(-1, 5), (6, 5)])
def test_a_tree_that_shrank_has_no_consistency_proof(old: int, new: int) -> None:
    with pytest.raises(ValueError, match="no such tree"):
        consistency_ranges(old, new)
    assert not verify_consistency(old, LEAVES[0], new, LEAVES[1], [])


def test_hashes_are_those_of_rfc_6962() -> None:
    # Published with the reference implementation of certificate transparency.
    assert root([]).hex() == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert leaf_hash(b"").hex() == "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d"
    inputs = ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"]
    leaves = [leaf_hash(bytes.fromhex(text)) for text in inputs]
    assert [root(leaves[:size]).hex() for size in (2, 3, 8)] == [
        "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
        "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
        "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
    ]


def test_roots_and_frontiers_equal_those_of_an_independent_implementation() -> None:
    other = pymerkle.InmemoryTree(algorithm="sha256")
    frontier = Frontier()
    for size in SIZES:
        other.append_entry(b"entry %d" % (size - 1))
        frontier.extend([LEAVES[size - 1]])
        expected = other.get_root()
        assert root(LEAVES[:size]) == Tree(LEAVES[:size]).root == frontier.root == expected
        frontier = Frontier.from_bytes(frontier.to_bytes())
        assert frontier.root == expected


def test_inclusion_proofs_hold_the_hashes_that_an_independent_implementation_sends() -> None:
    other = pymerkle.InmemoryTree.init_from_entries([b"entry %d" % number for number in range(130)], "sha256")
    for size in (1, 2, 3, 6, 7, 8, 64, 65, 130):
        tree = Tree(LEAVES[:size])
        for index in range(size):
            theirs = set(other.prove_inclusion(index + 1, size).path) - {LEAVES[index]}
            assert set(tree.inclusion_proof(index)) == theirs


def test_proofs_are_those_of_the_example_with_seven_leaves_in_rfc_6962() -> None:
    # Section 2.1.3; a … g are the leaves, h = (0, 2), i = (4, 6), j = (6, 7), k = (0, 4), l = (4, 7)
    assert inclusion_ranges(0, 7) == [(1, 2), (2, 4), (4, 7)]
    assert inclusion_ranges(3, 7) == [(2, 3), (0, 2), (4, 7)]
    assert inclusion_ranges(4, 7) == [(5, 6), (6, 7), (0, 4)]
    assert inclusion_ranges(6, 7) == [(4, 6), (0, 4)]
    assert consistency_ranges(3, 7) == [(2, 3), (3, 4), (0, 2), (4, 7)]
    assert consistency_ranges(4, 7) == [(4, 7)]
    assert consistency_ranges(6, 7) == [(4, 6), (6, 7), (0, 4)]


def test_every_inclusion_proof_of_every_tree_up_to_130_leaves_verifies() -> None:
    for size in SIZES:
        tree = Tree(LEAVES[:size])
        for index in range(size):
            assert verify_inclusion(LEAVES[index], index, size, tree.inclusion_proof(index), tree.root)


def test_every_consistency_proof_of_every_pair_up_to_130_leaves_verifies() -> None:
    other = pymerkle.InmemoryTree.init_from_entries([b"entry %d" % number for number in range(130)], "sha256")
    roots = [EMPTY_ROOT, *(other.get_root(size) for size in SIZES)]
    for size in SIZES:
        tree = Tree(LEAVES[:size])
        for old in range(size + 1):
            assert verify_consistency(old, roots[old], size, roots[size], tree.consistency_proof(old))


@given(st.data())
def test_a_changed_inclusion_proof_is_refused(data: st.DataObject) -> None:
    size = data.draw(st.integers(1, 600))
    index = data.draw(st.integers(0, size - 1))
    tree = Tree(LEAVES[:size])
    leaf, proof = LEAVES[index], tree.inclusion_proof(index)
    assert verify_inclusion(leaf, index, size, proof, tree.root)
    other_index = data.draw(st.integers(0, size - 1).filter(lambda other: other != index)) if size > 1 else 1
    assert not verify_inclusion(leaf, other_index, size, proof, tree.root)
    assert not verify_inclusion(node_hash(leaf, leaf), index, size, proof, tree.root)
    assert not verify_inclusion(leaf, index, size, [*proof, leaf], tree.root)
    if proof:
        at = data.draw(st.integers(0, len(proof) - 1))
        assert not verify_inclusion(leaf, index, size, proof[:at] + proof[at + 1 :], tree.root)
        assert not verify_inclusion(leaf, index, size, [*proof[:at], LEAVES[599], *proof[at + 1 :]], EMPTY_ROOT)
        changed = bytes([proof[at][0] ^ 1]) + proof[at][1:]
        assert not verify_inclusion(leaf, index, size, [*proof[:at], changed, *proof[at + 1 :]], tree.root)


@given(st.data())
def test_a_changed_consistency_proof_is_refused(data: st.DataObject) -> None:
    size = data.draw(st.integers(2, 600))
    old = data.draw(st.integers(1, size - 1))
    tree, old_root = Tree(LEAVES[:size]), root(LEAVES[:old])
    proof = tree.consistency_proof(old)
    assert verify_consistency(old, old_root, size, tree.root, proof)
    assert not verify_consistency(old, tree.root, size, tree.root, proof)
    assert not verify_consistency(old, old_root, size, old_root, proof)
    assert not verify_consistency(old, old_root, size, tree.root, [*proof, LEAVES[0]])
    at = data.draw(st.integers(0, len(proof) - 1))
    assert not verify_consistency(old, old_root, size, tree.root, proof[:at] + proof[at + 1 :])
    changed = bytes([proof[at][0] ^ 1]) + proof[at][1:]
    assert not verify_consistency(old, old_root, size, tree.root, [*proof[:at], changed, *proof[at + 1 :]])


# --- the frontier ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoded", [b"", bytes(7), (1).to_bytes(8, "big"), bytes(8) + LEAVES[0], bytes(8) + b"x"])
def test_bytes_that_are_no_frontier_are_refused(encoded: bytes) -> None:
    with pytest.raises(ValueError, match="not a frontier"):
        Frontier.from_bytes(encoded)


def test_a_frontier_hands_out_each_complete_subtree_of_every_eighth_height_once() -> None:
    leaves = [leaf_hash(number.to_bytes(4, "big")) for number in range(66_000)]
    frontier = Frontier()
    completed = [*frontier.extend(leaves[:300]), *frontier.extend(leaves[300:])]
    assert frontier.root == root(leaves)
    assert [(node.height, node.index) for node in completed if node.height != 8] == [(16, 0)]
    assert [node.index for node in completed if node.height == 8] == list(range(257))
    for node in completed:
        assert node.hash == root(leaves[node.index << node.height : (node.index + 1) << node.height])


@given(st.integers(1, 600), st.data())
def test_complete_subtrees_fold_to_the_node_they_make_up(size: int, data: st.DataObject) -> None:
    index = data.draw(st.integers(0, size - 1))
    for lo, hi in inclusion_ranges(index, size):
        parts = [(part << height, (part + 1) << height) for height, part in complete_subtrees(lo, hi)]
        assert fold_subtrees([root(LEAVES[first:last]) for first, last in parts]) == root(LEAVES[lo:hi])
    assert fold_subtrees([]) == EMPTY_ROOT


# --- notes and checkpoints ---------------------------------------------------------------------------------------

# A state of the Go checksum database, signed by its operator: what any C2SP implementation accepts.
SUMDB = NoteKey("sum.golang.org", base64.b64decode("Ac4zctda0e5eza+HJyk9SxEdh+s3Ux18htTTAD8OuAn8")[1:])
SUMDB_NOTE = """go.sum database tree
63096908
8lHrQPRYe4KT4WQ9/Qk8/taKnD6IRHbFgfN7vQE2Y54=

— sum.golang.org Az3gri/oVBN1jAhNZ/iS+W31psFAWRT20/GyrhpU6taFwulQGetBkH5S7wpGXdS935jiIGiUUAXBVHzT/P6fYhqAmAk=
"""


def test_a_checkpoint_of_the_go_checksum_database_verifies() -> None:
    assert SUMDB.key_id.hex() == "033de0ae"
    checkpoint = open_checkpoint(SUMDB_NOTE, SUMDB)
    assert (checkpoint.origin, checkpoint.size) == ("go.sum database tree", 63096908)


@pytest.mark.parametrize(
    ("note", "reason"),
    [
        (SUMDB_NOTE.replace("63096908", "63096909"), "does not fit the text"),
        (SUMDB_NOTE.replace("— sum.golang.org", "— sum.golang.com"), "not signed by this key"),
        (SUMDB_NOTE.replace("Az3gri", "Az3gsi"), "not signed by this key"),
        (SUMDB_NOTE.replace("gri/o", "gri/p"), "does not fit the text"),
        (SUMDB_NOTE.replace("— ", "- "), "signature line is malformed"),
        (SUMDB_NOTE.replace("qAmAk=", "qAmAl="), "not canonical base64"),
        (SUMDB_NOTE.replace("qAmAk=", "qAm k="), "signature line is malformed"),
        (SUMDB_NOTE.replace("qAmAk=", "qAmAk"), "not base64"),
        (SUMDB_NOTE.replace("\n\n", "\n"), "not a signed note"),
        (SUMDB_NOTE.removesuffix("\n"), "not a signed note"),
        (SUMDB_NOTE.replace("\n", "\r\n"), "control characters"),
        (SUMDB_NOTE.replace("tree", "tr\ud800e"), "not Unicode"),
        (SUMDB_NOTE + "x" * 70_000, "longer than"),
        ("", "not a signed note"),
    ],
)
def test_a_note_that_was_changed_is_refused(note: str, reason: str) -> None:
    with pytest.raises(BadNote, match=reason):
        open_note(note, SUMDB)


@pytest.mark.parametrize(
    "text",
    [
        "log\n5\n",
        "log\n05\n" + base64.b64encode(bytes(32)).decode() + "\n",
        "log\n-1\n" + base64.b64encode(bytes(32)).decode() + "\n",
        "log\n5\n" + base64.b64encode(bytes(31)).decode() + "\n",
        "\n5\n" + base64.b64encode(bytes(32)).decode() + "\n",
        "log\n5\nnot base64\n",
    ],
)
def test_a_signed_note_that_is_no_checkpoint_is_refused(key: SigningKey, text: str) -> None:
    with pytest.raises(BadNote):
        open_checkpoint(sign_note(text, "log", key), NoteKey("log", key.public_key_bytes))


@pytest.mark.parametrize("text", ["no newline at the end", "tab\t\n", "surrogate \ud800\n"])
def test_a_text_that_cannot_be_a_note_is_not_signed(key: SigningKey, text: str) -> None:
    with pytest.raises(ValueError, match="a note ends in a newline"):
        sign_note(text, "log", key)


@pytest.mark.parametrize("name", ["", "two words", "a+b", "thin\u2009space"])
def test_a_key_name_with_spaces_or_plus_signs_is_not_used(key: SigningKey, name: str) -> None:
    with pytest.raises(ValueError, match="key name"):
        sign_note("text\n", name, key)


@pytest.mark.parametrize("checkpoint", [Checkpoint("", 1, bytes(32)), Checkpoint("a\nb", 1, bytes(32)),
                                        Checkpoint("a", 1, bytes(32), ("",))])  # fmt: skip
def test_a_checkpoint_with_an_empty_or_broken_line_is_not_signed(key: SigningKey, checkpoint: Checkpoint) -> None:
    with pytest.raises(ValueError, match="a line of a checkpoint"):
        sign_checkpoint(checkpoint, "log", key)


def test_a_checkpoint_survives_signing_with_its_extension_lines(key: SigningKey) -> None:
    checkpoint = Checkpoint("asm.test/nhật-ký", 7, LEAVES[0], ("signed_at now", "more"))
    note = sign_checkpoint(checkpoint, "asm.test/audit", key)
    assert open_checkpoint(note, NoteKey("asm.test/audit", key.public_key_bytes)) == checkpoint
    assert read_checkpoint(note) == checkpoint


def test_signatures_of_others_beside_ours_are_ignored(key: SigningKey) -> None:
    ours = NoteKey("asm.test/audit", key.public_key_bytes)
    note = sign_note("text\n", ours.name, key)
    stranger = SUMDB_NOTE.splitlines(keepends=True)[-1]
    same_name = f"— {ours.name} {base64.b64encode(bytes(68)).decode()}\n"
    assert open_note(note + stranger + same_name, ours) == "text\n"


def test_one_bad_signature_under_our_key_spoils_the_note(key: SigningKey) -> None:
    ours = NoteKey("asm.test/audit", key.public_key_bytes)
    forged = f"— {ours.name} {base64.b64encode(ours.key_id + bytes(64)).decode()}\n"
    with pytest.raises(BadNote, match="does not fit the text"):
        open_note(sign_note("text\n", ours.name, key) + forged, ours)


# --- keys as text, and cosignatures ------------------------------------------------------------------------------

# The example of C2SP tlog-cosignature: header and time are part of what is signed, the name is not.
CHECKPOINT_TEXT = "example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n"


def test_a_verifier_key_is_the_one_that_the_go_checksum_database_publishes() -> None:
    published = "sum.golang.org+033de0ae+Ac4zctda0e5eza+HJyk9SxEdh+s3Ux18htTTAD8OuAn8"
    assert read_vkey(published) == SUMDB
    assert write_vkey(SUMDB.name, SUMDB.public_key) == published


@pytest.mark.parametrize(
    "text",
    [
        "",
        "sum.golang.org",
        "sum.golang.org+033de0af+Ac4zctda0e5eza+HJyk9SxEdh+s3Ux18htTTAD8OuAn8",
        "sum.golang.com+033de0ae+Ac4zctda0e5eza+HJyk9SxEdh+s3Ux18htTTAD8OuAn8",
        "sum.golang.org+033de0ae+BM4zctda0e5eza+HJyk9SxEdh+s3Ux18htTTAD8OuAn8",
        "sum.golang.org+033de0ae+Ac4zctda0e5eza+HJyk9SxEdh+s3Ux18htTTAD8O",
    ],
)
def test_a_verifier_key_that_was_changed_is_refused(text: str) -> None:
    with pytest.raises(BadNote):
        read_vkey(text)


def test_a_cosignature_says_when_and_of_what_and_by_whom(key: SigningKey) -> None:
    witness = NoteKey("witness.test/w1", key.public_key_bytes)
    note = sign_note(CHECKPOINT_TEXT, "example.com/behind-the-sofa", key)
    line = cosign(note, witness.name, witness.public_key, key.sign, 1679315147)
    assert open_cosignature(note, line, witness) == datetime(2023, 3, 20, 12, 25, 47, tzinfo=UTC)
    stamped = base64.b64decode(line.split()[2])
    assert stamped[:12] == sha256(b"witness.test/w1\n\x04" + witness.public_key).digest()[:4] + bytes.fromhex(
        "00000000641850cb"
    )
    signed = b"cosignature/v1\ntime 1679315147\n" + CHECKPOINT_TEXT.encode()
    assert verify_signature(witness.public_key, signed, stamped[12:])
    for wrong in (
        line.replace("w1", "w2"),
        line.replace("— ", "- "),
        line.replace(" ", "  "),
        _stamped(line, stamped[:11] + bytes([stamped[11] ^ 1]) + stamped[12:]),
        _stamped(line, bytes(4) + stamped[4:]),
        _stamped(line, stamped[:-1]),
    ):
        with pytest.raises(BadNote):
            open_cosignature(note, wrong, witness)
    with pytest.raises(BadNote, match="does not fit"):
        open_cosignature(note.replace("\n20852163\n", "\n20852164\n"), line, witness)


def _stamped(line: str, stamped: bytes) -> str:
    return f"{line.rpartition(' ')[0]} {base64.b64encode(stamped).decode()}\n"
