/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A string search 16 positions at a time, with nothing newer than SSE2.
 *
 * Exercises: movdqu, pcmpeqb, pand, pmovmskb, bsf: vector registers that are live across every instruction of the
 * loop, so that a hit on a probe must not change them.
 */
#include <emmintrin.h>
#include <stdint.h>

static int same(const uint8_t *a, const uint8_t *b, uint64_t n)
{
	for (uint64_t i = 0; i < n; i++)
		if (a[i] != b[i])
			return 0;
	return 1;
}

/* Position of the first `needle` in `hay`, or -1. An empty needle is found at 0. */
int64_t sse2_find(const uint8_t *hay, uint64_t n, const uint8_t *needle, uint64_t m)
{
	uint64_t at = 0;

	if (m == 0)
		return 0;
	if (m > n)
		return -1;

	__m128i first = _mm_set1_epi8((char)needle[0]), last = _mm_set1_epi8((char)needle[m - 1]);

	/* A candidate starts with the first byte and has the last one m - 1 further on. Loads stay inside `hay`. */
	for (; at + m - 1 + 16 <= n; at += 16) {
		__m128i head = _mm_loadu_si128((const __m128i *)(hay + at));
		__m128i tail = _mm_loadu_si128((const __m128i *)(hay + at + m - 1));
		__m128i both = _mm_and_si128(_mm_cmpeq_epi8(head, first), _mm_cmpeq_epi8(tail, last));
		unsigned mask = (unsigned)_mm_movemask_epi8(both);

		for (; mask; mask &= mask - 1) {
			uint64_t candidate = at + (unsigned)__builtin_ctz(mask);

			if (same(hay + candidate, needle, m))
				return (int64_t)candidate;
		}
	}
	for (; at + m <= n; at++)
		if (same(hay + at, needle, m))
			return (int64_t)at;
	return -1;
}
