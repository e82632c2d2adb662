import pytest
import torch

from fourtop_tokens.models.codebook import Codebook, k_means, sums_by_code
from hep_shared.ops.nearest import nearest_code


def test_sums_equal_a_one_hot_product():
    torch.manual_seed(0)
    vectors, nearest = torch.randn(100, 4), torch.randint(7, (100,))
    one_hot = torch.nn.functional.one_hot(nearest, 8).float()
    counts, sums = sums_by_code(vectors, nearest, 8)
    assert torch.equal(counts, one_hot.sum(0))
    assert torch.allclose(sums, one_hot.T @ vectors, atol=1e-5)


def test_k_means_finds_separate_clusters():
    torch.manual_seed(0)
    centres = torch.tensor([[0.0, 0], [100, 0], [0, 100], [100, 100]])
    vectors = (centres[:, None] + torch.randn(4, 50, 2)).reshape(-1, 2)
    found = k_means(vectors, 4)
    assert torch.cdist(centres, found).amin(1).max() < 1


def test_k_means_with_more_codes_than_vectors():
    vectors = torch.tensor([[1.0], [2.0], [3.0]])
    found = k_means(vectors, 8)
    assert found.shape == (8, 1)
    assert set(found.flatten().tolist()) == {1.0, 2.0, 3.0}


def test_codes_follow_their_vectors():
    torch.manual_seed(0)
    book = Codebook(2, 1, decay=0.5, dead_below=0.0)
    book.start(torch.tensor([[0.0], [10.0]]))
    for _ in range(60):
        vectors = torch.tensor([[1.0], [1.0], [12.0]])
        book.update(vectors, nearest_code(vectors, book.codes))
    assert sorted(book.codes.flatten().tolist()) == pytest.approx([1.0, 12.0], abs=1e-4)
    assert sorted(book.sizes.tolist()) == pytest.approx([1.0, 2.0], abs=1e-4)


def test_dead_codes_are_revived():
    torch.manual_seed(0)
    book = Codebook(8, 2)
    book.codes.fill_(100.0)  # seven codes that nothing is near to
    book.codes[0] = 0.0
    book.sums.copy_(book.codes)
    vectors = torch.randn(400, 2)
    for _ in range(300):
        book.update(vectors, nearest_code(vectors, book.codes))
    assert len(nearest_code(vectors, book.codes).unique()) == 8


def test_a_batch_without_objects_is_harmless():
    book = Codebook(4, 2)
    codes = book.codes.clone()
    book.update(torch.zeros(0, 2), torch.zeros(0, dtype=torch.int64))
    assert torch.allclose(book.codes, codes, atol=1e-5)
