/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Calls, jumps, loops, returns, and what touches RSP: instructions that can't run in a copy as they are, because
 * they depend on where they are or on what is on the stack.
 */
#include "shapes.inc"

LOCAL flow_affine /* 3 * x + 1 */
	lea	rax, [rdi + rdi * 2 + 1]
	ret
END flow_affine

	.section .text.unlikely, "ax", @progbits
LOCAL flow_far /* 7 * x, in another section: a call to it has a relocation */
	imul	rax, rdi, 7
	ret
END flow_far
	.text

/* 4 * x + 1 */
FUNC shape_call_direct
	call	flow_affine
	add	rax, rdi
	ret
END shape_call_direct

/* 7 * x - 1 */
FUNC shape_call_section
	call	flow_far
	dec	rax
	ret
END shape_call_section

/* x: a call to the next instruction is a way to read RIP, and the address it pushes must be that of the original */
FUNC shape_call_next
	call	1f
1:	pop	rcx
	lea	rax, [rip + 1b]
	sub	rax, rcx
	add	rax, rdi
	ret
END shape_call_next

/* 3 * x + 2 */
FUNC shape_call_reg
	lea	rax, [rip + flow_affine]
	call	rax
	inc	rax
	ret
END shape_call_reg

/* 3 * x + 1: the operand is read before the return address is pushed */
FUNC shape_call_rsp_mem
	lea	rax, [rip + flow_affine]
	push	rax
	call	[rsp]
	pop	rcx
	ret
END shape_call_rsp_mem

/* x + 1 */
FUNC shape_jmp_short
	lea	rax, [rdi + 1]
	jmp	1f
	mov	eax, 99
1:	ret
END shape_jmp_short

/* x + 2 */
FUNC shape_jmp_near
	lea	rax, [rdi + 2]
	{disp32} jmp 1f
	mov	eax, 99
1:	ret
END shape_jmp_near

/* x + 3 */
FUNC shape_jmp_reg
	lea	rcx, [rip + 1f]
	lea	rax, [rdi + 3]
	jmp	rcx
	mov	eax, 99
1:	ret
END shape_jmp_reg

	.section .rodata
	.balign	4
table:	.long	1f - table, 2f - table, 3f - table, 4f - table
	.text
/* x & 3 selects 10, 21, 32 or 43; the entries are relative to the table */
FUNC shape_jmp_table
	and	edi, 3
	lea	rcx, [rip + table]
	movsxd	rdx, dword ptr [rcx + rdi * 4]
	add	rdx, rcx
	xor	eax, eax
	jmp	rdx
4:	add	eax, 11
3:	add	eax, 11
2:	add	eax, 11
1:	add	eax, 10
	ret
END shape_jmp_table

/* 7 * (x + 1): a jump to another function in place of call and ret */
FUNC shape_tail
	inc	rdi
	{disp32} jmp flow_far
END shape_tail

/* 1 when RCX is 0, else 2 */
FUNC shape_jrcxz
	mov	rcx, rdi
	mov	eax, 1
	jrcxz	1f
	mov	eax, 2
1:	ret
END shape_jrcxz

/* 1 when ECX is 0, whatever is above it, else 2 */
FUNC shape_jecxz
	mov	rcx, rdi
	mov	eax, 1
	jecxz	1f
	mov	eax, 2
1:	ret
END shape_jecxz

/* the sum of 1 .. n */
FUNC shape_loop
	xor	eax, eax
	mov	rcx, rdi
1:	add	rax, rcx
	loop	1b
	ret
END shape_loop

/* (n, mask): counts up while the count has no bit of the mask, n times at most; count + 256 * rest of n */
FUNC shape_loope
	xor	eax, eax
	mov	rcx, rdi
1:	inc	rax
	test	rax, rsi
	loope	1b
	shl	rcx, 8
	add	rax, rcx
	ret
END shape_loope

/* (n, stop): counts up until stop, n times at most; count + 256 * rest of n */
FUNC shape_loopne
	xor	eax, eax
	mov	rcx, rdi
1:	inc	rax
	cmp	rax, rsi
	loopne	1b
	shl	rcx, 8
	add	rax, rcx
	ret
END shape_loopne

/* the sum of 1 .. n; the jump goes into the first five bytes of the function */
FUNC shape_backedge
	xor	eax, eax
1:	add	rax, rdi
	dec	rdi
	jnz	1b
	ret
END shape_backedge

/* the sum of 1 .. n by recursion: as many activations as n, and returns to nest */
FUNC shape_recurse
.Lrecurse:
	xor	eax, eax
	test	rdi, rdi
	jz	1f
	push	rdi
	dec	rdi
	call	.Lrecurse
	pop	rdi
	add	rax, rdi
1:	ret
END shape_recurse

/* 2 * x */
FUNC shape_enter_leave
	enter	32, 0
	mov	[rbp - 8], rdi
	mov	[rsp], rdi
	mov	rax, [rbp - 8]
	add	rax, [rsp]
	leave
	ret
END shape_enter_leave

LOCAL flow_ret16
	mov	rax, [rsp + 8]
	lea	rax, [rax + rax * 4]
	ret	16
END flow_ret16

/* 5 * x: the callee takes its two stack arguments off */
FUNC shape_ret_imm
	push	0
	push	rdi
	call	flow_ret16
	ret
END shape_ret_imm

/* x: the form of ret that compilers once made for a branch predictor's sake */
FUNC shape_rep_ret
	mov	rax, rdi
	.byte	0xf3, 0xc3
END shape_rep_ret

/* x: shorter than a jump, so nothing of it can be replaced by one */
FUNC shape_tiny
	mov	rax, rdi
	ret
END shape_tiny

/* x: push rsp stores the value from before */
FUNC shape_push_rsp
	push	rsp
	pop	rax
	sub	rax, rsp
	add	rax, rdi
	ret
END shape_push_rsp

/* x + 32 */
FUNC shape_pop_rsp
	mov	rcx, rsp
	lea	rax, [rsp - 32]
	push	rax
	pop	rsp
	mov	rax, rcx
	sub	rax, rsp
	mov	rsp, rcx
	add	rax, rdi
	ret
END shape_pop_rsp

/* 2 * x: the address is computed before RSP moves */
FUNC shape_push_rsp_mem
	push	rdi
	push	qword ptr [rsp]
	pop	rax
	pop	rcx
	add	rax, rcx
	ret
END shape_push_rsp_mem

/* x: the address is computed after RSP moves */
FUNC shape_pop_rsp_mem
	push	0
	push	rdi
	pop	qword ptr [rsp]
	pop	rax
	ret
END shape_pop_rsp_mem

/* 0x12345678 - 2 + x: immediates of 4 bytes and of 1 byte, both sign-extended */
FUNC shape_push_imm
	push	-2
	push	0x12345678
	pop	rax
	pop	rcx
	add	rax, rcx
	add	rax, rdi
	ret
END shape_push_imm
