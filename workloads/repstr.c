/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Copying and filling with string instructions.
 *
 * Exercises: rep movsb, rep movsq, rep stosb, rep stosq inside compiled code: instructions that are interruptible
 * between iterations, and that a single step or an emulator may count once an iteration.
 */
#include <stdint.h>

void *rep_memcpy(void *dst, const void *src, uint64_t n)
{
	void *d = dst;

	__asm__ volatile("rep movsb" : "+D"(d), "+S"(src), "+c"(n) : : "memory");
	return dst;
}

void *rep_memset(void *dst, int byte, uint64_t n)
{
	void *d = dst;

	__asm__ volatile("rep stosb" : "+D"(d), "+c"(n) : "a"(byte) : "memory");
	return dst;
}

/* Fills `n` bytes at `dst` with `byte`, copies the first half of `src` over the first half, and returns a checksum. */
uint64_t rep_fill_copy(uint8_t *dst, const uint8_t *src, uint64_t n, int byte)
{
	uint64_t fill = (uint8_t)byte * 0x0101010101010101u, sum = 0;
	uint64_t words = n / 8, bytes = n % 8;
	uint8_t *d = dst;

	__asm__ volatile("rep stosq" : "+D"(d), "+c"(words) : "a"(fill) : "memory");
	__asm__ volatile("rep stosb" : "+D"(d), "+c"(bytes) : "a"(fill) : "memory");
	words = n / 2 / 8, bytes = n / 2 % 8, d = dst;
	__asm__ volatile("rep movsq" : "+D"(d), "+S"(src), "+c"(words) : : "memory");
	__asm__ volatile("rep movsb" : "+D"(d), "+S"(src), "+c"(bytes) : : "memory");
	for (uint64_t i = 0; i < n; i++)
		sum = sum * 31 + dst[i];
	return sum;
}
