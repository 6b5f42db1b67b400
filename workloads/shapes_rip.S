/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Instructions with a RIP-relative operand: those that must be changed when they are copied elsewhere.
 *
 * The displacement is not always the last field: an immediate of 1, 2 or 4 bytes may follow it, and the
 * displacement counts from behind that.
 */
#include "shapes.inc"

	.data
	.balign	8
v64:	.quad	0x1122334455667788
w64:	.quad	0x0123456789abcdef
d64:	.quad	1000003
pointer:
	.quad	rip_twice
v32:	.long	0x91223344
v16:	.word	0xfedc
v8:	.byte	0x80

	.section .rodata
	.balign	16
k128a:	.long	1, 2, 3, 4
k128b:	.long	10, 20, 30, 40
kf64:	.double	2.5
kf32:	.float	0.5

	.text
/* x + v64 */
FUNC shape_rip_load
	mov	rax, [rip + v64]
	add	rax, rdi
	ret
END shape_rip_load

/* v8 zero-extended + v16 and v32 sign-extended */
FUNC shape_rip_load_narrow
	movzx	eax, byte ptr [rip + v8]
	movsx	rcx, word ptr [rip + v16]
	movsxd	rdx, dword ptr [rip + v32]
	add	rax, rcx
	add	rax, rdx
	ret
END shape_rip_load_narrow

/* ~x, by way of v64 */
FUNC shape_rip_store
	mov	[rip + v64], rdi
	mov	rax, [rip + v64]
	not	rax
	ret
END shape_rip_store

/* Immediates of 1, 2 and 4 bytes behind the displacement; the sum of what was stored. */
FUNC shape_rip_store_imm
	mov	byte ptr [rip + v8], 0x5a
	mov	word ptr [rip + v16], 0x1234
	mov	dword ptr [rip + v32], 0x01020304
	mov	qword ptr [rip + v64], -0x7ffffff0
	mov	rax, [rip + v64]
	movzx	ecx, byte ptr [rip + v8]
	add	rax, rcx
	movzx	ecx, word ptr [rip + v16]
	add	rax, rcx
	mov	ecx, [rip + v32]
	add	rax, rcx
	ret
END shape_rip_store_imm

/* v64 - x */
FUNC shape_rip_push
	push	qword ptr [rip + v64]
	pop	rax
	sub	rax, rdi
	ret
END shape_rip_push

/* -x, by way of v64 */
FUNC shape_rip_pop
	push	rdi
	pop	qword ptr [rip + v64]
	mov	rax, [rip + v64]
	neg	rax
	ret
END shape_rip_pop

/* (expected, new): the old value + twice the value in memory afterwards + 1 if they were exchanged */
.macro EXCHANGE name, prefix
FUNC \name
	mov	rax, rdi
	xor	ecx, ecx
	\prefix	cmpxchg [rip + v64], rsi
	sete	cl
	mov	rdx, [rip + v64]
	lea	rax, [rax + rdx * 2]
	add	rax, rcx
	ret
END \name
.endm

	EXCHANGE	shape_rip_cmpxchg
	EXCHANGE	shape_rip_lock_cmpxchg, lock

/* (v64 + x + 5) ^ (v32 + 0x12345) */
FUNC shape_rip_add
	add	[rip + v64], rdi
	add	dword ptr [rip + v32], 0x12345
	add	qword ptr [rip + v64], 5
	mov	rax, [rip + v64]
	mov	ecx, [rip + v32]
	xor	rax, rcx
	ret
END shape_rip_add

/* (v64 + x) ^ v64 */
FUNC shape_rip_lock_xadd
	lock	xadd [rip + v64], rdi
	mov	rax, [rip + v64]
	xor	rax, rdi
	ret
END shape_rip_lock_xadd

/* (v64 + 1) ^ (v32 - 1) */
FUNC shape_rip_lock_inc
	lock	inc qword ptr [rip + v64]
	lock	dec dword ptr [rip + v32]
	mov	rax, [rip + v64]
	mov	ecx, [rip + v32]
	xor	rax, rcx
	ret
END shape_rip_lock_inc

/* v64 - x; xchg with memory locks without saying so */
FUNC shape_rip_xchg
	xchg	[rip + v64], rdi
	mov	rax, rdi
	sub	rax, [rip + v64]
	ret
END shape_rip_xchg

/* distance of w64 from v64 + v64 + x */
FUNC shape_rip_lea
	lea	rax, [rip + w64]
	lea	rcx, [rip + v64]
	sub	rax, rcx
	add	rax, [rcx]
	add	rax, rdi
	ret
END shape_rip_lea

/* bit 0: x is 0x11223344; bit 1: x > 7 as 32-bit signed; bit 2: x has bit 31; bit 3: v8 is 0x80 */
FUNC shape_rip_cmp_imm
	mov	[rip + v32], edi
	xor	eax, eax
	xor	ecx, ecx
	cmp	dword ptr [rip + v32], 0x11223344
	sete	al
	cmp	dword ptr [rip + v32], 7
	setg	cl
	lea	eax, [rax + rcx * 2]
	test	dword ptr [rip + v32], 0x80000000
	setne	cl
	lea	eax, [rax + rcx * 4]
	cmp	byte ptr [rip + v8], 0x80
	sete	cl
	lea	eax, [rax + rcx * 8]
	ret
END shape_rip_cmp_imm

/* v64 * 0x01000193 + w64 * 3 + (v64 << 3) + (v32 >> 2) + bit 4 of the latter */
FUNC shape_rip_alu
	imul	rax, [rip + v64], 0x01000193
	imul	rcx, [rip + w64], 3
	shl	qword ptr [rip + v64], 3
	sar	dword ptr [rip + v32], 2
	add	rax, rcx
	add	rax, [rip + v64]
	mov	ecx, [rip + v32]
	bt	dword ptr [rip + v32], 4
	adc	rax, rcx
	ret
END shape_rip_alu

/* both halves of x * w64 xored; quotient + remainder of that by d64. RAX and RDX are implicit operands. */
FUNC shape_rip_muldiv
	mov	rax, rdi
	mul	qword ptr [rip + w64]
	xor	rax, rdx
	xor	edx, edx
	div	qword ptr [rip + d64]
	add	rax, rdx
	ret
END shape_rip_muldiv

/* x, or v64 when x is 0 */
FUNC shape_rip_cmov
	mov	rax, rdi
	test	rdi, rdi
	cmovz	rax, [rip + v64]
	ret
END shape_rip_cmov

/* (k128a + k128b) ^ reversed k128b, in four lanes; the low half + 3 * the high half */
FUNC shape_rip_sse
	movdqa	xmm0, [rip + k128a]
	paddd	xmm0, [rip + k128b]
	pshufd	xmm1, [rip + k128b], 0x1b
	pxor	xmm0, xmm1
	movq	rax, xmm0
	psrldq	xmm0, 8
	movq	rcx, xmm0
	lea	rcx, [rcx + rcx * 2]
	add	rax, rcx
	ret
END shape_rip_sse

/* (double a, double b): (a + b) * 2.5, cut to an integer */
FUNC shape_rip_f64
	addsd	xmm0, xmm1
	mulsd	xmm0, [rip + kf64]
	cvttsd2si rax, xmm0
	ret
END shape_rip_f64

/* x * 2.5 + 0.5, rounded */
FUNC shape_rip_x87
	push	rdi
	fild	qword ptr [rsp]
	fmul	qword ptr [rip + kf64]
	fadd	dword ptr [rip + kf32]
	fistp	qword ptr [rsp]
	pop	rax
	ret
END shape_rip_x87

LOCAL rip_twice
	lea	rax, [rdi + rdi]
	ret
END rip_twice

/* 2 * x + 1 */
FUNC shape_rip_call_mem
	call	[rip + pointer]
	inc	rax
	ret
END shape_rip_call_mem

/* 2 * x */
FUNC shape_rip_jmp_mem
	jmp	[rip + pointer]
END shape_rip_jmp_mem
