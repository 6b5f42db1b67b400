/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The start of `libmix`, a static executable made of this file, sha256.c and sse2.c.
 *
 * Exercises: an ET_EXEC image that is linked to a fixed address, several translation units, and a program's own entry
 * point. Run as a process it checks itself and exits with 0; as an image, single functions of it are called.
 */
#include <stdint.h>

uint64_t sha256(const uint8_t *msg, uint64_t len, uint8_t digest[32]);
int64_t sse2_find(const uint8_t *hay, uint64_t n, const uint8_t *needle, uint64_t m);

/* Position of the digest's first byte in the message, or -1: one function of each of the other files. */
int64_t mix_find_digest(const uint8_t *msg, uint64_t len)
{
	uint8_t digest[32];

	sha256(msg, len, digest);
	return sse2_find(msg, len, digest, 1);
}

static const uint8_t ABC[3] = "abc", FIRST = 0xba;

__attribute__((used)) static int self_check(void)
{
	uint8_t digest[32];

	return sha256(ABC, 3, digest) != 0xba7816bf8f01cfea || sse2_find(digest, 32, &FIRST, 1) != 0;
}

/* No function symbol: nobody can call it, since it never returns. */
__asm__(".globl _start\n"
	"_start:\n\t"
	"xor %ebp, %ebp\n\t"
	"and $-16, %rsp\n\t"
	"call self_check\n\t"
	"mov %eax, %edi\n\t"
	"mov $60, %eax\n\t"
	"syscall\n\t"
	"ud2\n");
