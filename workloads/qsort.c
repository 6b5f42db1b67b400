/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Quicksort over fixed-size items with a comparison callback.
 *
 * Exercises: indirect calls by register, real recursion (so several activations of one probed function are live
 * at once), callee-saved registers pushed and popped around them, short backward jumps.
 */
#include <stdint.h>

typedef int compare_fn(const uint8_t *a, const uint8_t *b);

static int compare_i32(const uint8_t *a, const uint8_t *b)
{
	int32_t x = *(const int32_t *)a, y = *(const int32_t *)b;

	return (x > y) - (x < y);
}

static int compare_i64(const uint8_t *a, const uint8_t *b)
{
	int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;

	return (x > y) - (x < y);
}

static void swap(uint8_t *a, uint8_t *b, uint64_t size)
{
	for (uint64_t i = 0; i < size; i++) {
		uint8_t t = a[i];

		a[i] = b[i];
		b[i] = t;
	}
}

/* noipa: the compiler must not clone this for each callback and call that directly. */
static __attribute__((noipa)) void quicksort(uint8_t *a, uint64_t n, uint64_t size, compare_fn *compare)
{
	while (n > 1) {
		uint8_t *last = a + (n - 1) * size, *store = a;

		swap(a + n / 2 * size, last, size);
		for (uint8_t *p = a; p < last; p += size)
			if (compare(p, last) < 0) {
				swap(p, store, size);
				store += size;
			}
		swap(store, last, size);

		uint64_t left = (uint64_t)(store - a) / size;

		quicksort(a, left, size, compare);
		a = store + size;
		n -= left + 1;
	}
}

/* Both return the sum of value * (position + 1) after sorting, which no other order of the items gives by luck. */
int64_t sort_i32(int32_t *a, uint64_t n)
{
	uint64_t sum = 0;

	quicksort((uint8_t *)a, n, sizeof(*a), compare_i32);
	for (uint64_t i = 0; i < n; i++)
		sum += (uint64_t)(int64_t)a[i] * (i + 1);
	return (int64_t)sum;
}

int64_t sort_i64(int64_t *a, uint64_t n)
{
	uint64_t sum = 0;

	quicksort((uint8_t *)a, n, sizeof(*a), compare_i64);
	for (uint64_t i = 0; i < n; i++)
		sum += (uint64_t)a[i] * (i + 1);
	return (int64_t)sum;
}
