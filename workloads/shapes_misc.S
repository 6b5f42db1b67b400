/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Flags, locks, prefixes, no-operations: instructions that a copy may run as they are, if it keeps flags and
 * registers as they were.
 */
#include "shapes.inc"

#define STATUS 0x8d5 /* CF, PF, AF, ZF, SF, OF */

/* status flags of a + b */
FUNC shape_pushf
	add	rdi, rsi
	pushfq
	pop	rax
	and	eax, STATUS
	ret
END shape_pushf

/* x & STATUS, by way of the flags; all others stay */
FUNC shape_popf
	and	edi, STATUS
	pushfq
	pop	rax
	and	rax, ~STATUS
	or	rax, rdi
	push	rax
	popfq
	pushfq
	pop	rax
	and	eax, STATUS
	ret
END shape_popf

/* the flags' low byte after loading it with x: bits 7, 6, 4, 2, 0 of x, and bit 1 which is always set */
FUNC shape_lahf_sahf
	mov	eax, edi
	shl	eax, 8
	sahf
	mov	eax, 0
	lahf
	shr	eax, 8
	ret
END shape_lahf_sahf

/* 9 + carry of a + b: flags live across instructions that leave them alone */
FUNC shape_flags_live
	add	rdi, rsi
	mov	eax, 7
	lea	rcx, [rsp - 8]
	nop
	adc	rax, 0
	stc
	inc	rax
	adc	rax, 0
	ret
END shape_flags_live

/* (a, b, out[16]): each condition of comparing a with b, as 16 bytes; the lower eight + twice the upper eight, as numbers */
FUNC shape_setcc
	cmp	rdi, rsi
	seto	[rdx]
	setno	[rdx + 1]
	setb	[rdx + 2]
	setae	[rdx + 3]
	sete	[rdx + 4]
	setne	[rdx + 5]
	setbe	[rdx + 6]
	seta	[rdx + 7]
	sets	[rdx + 8]
	setns	[rdx + 9]
	setp	[rdx + 10]
	setnp	[rdx + 11]
	setl	[rdx + 12]
	setge	[rdx + 13]
	setle	[rdx + 14]
	setg	[rdx + 15]
	mov	rax, [rdx]
	add	rax, [rdx + 8]
	add	rax, [rdx + 8]
	ret
END shape_setcc

/* each condition of comparing a with b as a bit, the first one highest; nothing between touches the flags */
FUNC shape_cmov
	mov	ecx, 1
	mov	eax, 0
	cmp	rdi, rsi
	.irp	cc, o, no, b, ae, e, ne, be, a, s, ns, p, np, l, ge, le, g
	mov	edx, 0
	cmov\cc	rdx, rcx
	lea	rax, [rdx + rax * 2]
	.endr
	ret
END shape_cmov

/* (p): increments the 32-bit word at p; the new value */
FUNC shape_lock_inc
	lock	inc dword ptr [rdi]
	mov	eax, [rdi]
	ret
END shape_lock_inc

/* (p, x): adds to the 64-bit word at p; the old value */
FUNC shape_lock_xadd
	lock	xadd [rdi], rsi
	mov	rax, rsi
	ret
END shape_lock_xadd

/* (p, expected, new): the old value */
FUNC shape_lock_cmpxchg
	mov	rax, rsi
	lock	cmpxchg [rdi], rdx
	ret
END shape_lock_cmpxchg

/* (p, bit): sets a bit of a bit string; whether it was set */
FUNC shape_lock_bts
	xor	eax, eax
	lock	bts [rdi], rsi
	setc	al
	ret
END shape_lock_bts

/* a with its 8 bytes reversed ^ b with its low 4 bytes reversed */
FUNC shape_bswap
	mov	rax, rdi
	bswap	rax
	bswap	esi
	xor	rax, rsi
	ret
END shape_bswap

/* x + 1 behind five 1-byte no-operations */
FUNC shape_nop1
	.rept	5
	nop
	.endr
	lea	rax, [rdi + 1]
	ret
END shape_nop1

/* x + 2 between no-operations of 2 to 9 bytes */
FUNC shape_nopn
	lea	rax, [rdi + 2]
	.byte	0x66, 0x90
	.byte	0x0f, 0x1f, 0x00
	.byte	0x0f, 0x1f, 0x40, 0x00
	.byte	0x0f, 0x1f, 0x44, 0x00, 0x00
	.byte	0x66, 0x0f, 0x1f, 0x44, 0x00, 0x00
	.byte	0x0f, 0x1f, 0x80, 0x00, 0x00, 0x00, 0x00
	.byte	0x0f, 0x1f, 0x84, 0x00, 0x00, 0x00, 0x00, 0x00
	.byte	0x66, 0x0f, 0x1f, 0x84, 0x00, 0x00, 0x00, 0x00, 0x00
	ret
END shape_nopn

/* x + 3: a pause, and a jump of length 2 over nothing */
FUNC shape_pause
	pause
	jmp	1f
1:	lea	rax, [rdi + 3]
	ret
END shape_pause

/* x ^ a 64-bit immediate whose bytes look like other instructions (int3, jmp, call) */
FUNC shape_movabs
	movabs	rax, 0xcce9cce8cc0f90cc
	xor	rax, rdi
	ret
END shape_movabs

/* (x + 0x7001) in 16 bits ^ 0x1234: an operand-size prefix that changes the immediate's length */
FUNC shape_operand16
	movzx	eax, di
	add	ax, 0x7001
	xor	ax, 0x1234
	ret
END shape_operand16

/* low two bytes of x, swapped, + 256 times the low one */
FUNC shape_high_byte
	movzx	eax, di
	mov	ch, al
	xchg	al, ah
	movzx	edx, ch
	shl	edx, 8
	add	eax, edx
	ret
END shape_high_byte

/* (x, y, n): x and y shifted left by n as one 128-bit number, the upper half, rotated by n once more */
FUNC shape_shift
	mov	rcx, rdx
	mov	rax, rdi
	shld	rax, rsi, cl
	rol	rax, cl
	ret
END shape_shift

/* quotient + 1000 * remainder of signed a / b */
FUNC shape_idiv
	mov	rax, rdi
	cqo
	idiv	rsi
	imul	rdx, rdx, 1000
	add	rax, rdx
	ret
END shape_idiv

/* x + 4: cpuid serializes; what it says is not looked at */
FUNC shape_cpuid
	push	rbx
	xor	eax, eax
	xor	ecx, ecx
	cpuid
	lea	rax, [rdi + 4]
	pop	rbx
	ret
END shape_cpuid

#ifdef RED_ZONE
/* a - b, both kept under RSP, at either end of the 128 bytes that are a leaf function's own */
FUNC shape_red_zone
	mov	[rsp - 8], rdi
	mov	[rsp - 128], rsi
	xor	edi, edi
	xor	esi, esi
	mov	rax, [rsp - 8]
	sub	rax, [rsp - 128]
	ret
END shape_red_zone
#endif
