// SPDX-License-Identifier: GPL-2.0-only
/*
 * Pages compressed by the kernel's own LZ4, which may be built in, or two modules, or absent: its functions
 * are weak here, so that memsrv.ko loads without them where nothing is to be compressed. (symbol_get() does not give
 * them out: they are not exported for GPL modules only.)
 */
#include <linux/lz4.h>
#include <linux/mm.h>
#include <linux/percpu.h>
#include <linux/string.h>

#include "helpers.h"

extern typeof(LZ4_compress_default) LZ4_compress_default __weak;
extern typeof(LZ4_decompress_safe) LZ4_decompress_safe __weak;

/* What compressing takes, for each processor: whoever uses it is not preempted meanwhile, and nobody does
 * in an interrupt. */
struct scratch {
	u8 work[LZ4_MEM_COMPRESS] __aligned(8); /* with pointers */
	u8 block[PAGE_SIZE];
};

/* Rust knows nothing of address spaces. */
static struct scratch __percpu *of(void *scratch)
{
	return (struct scratch __percpu *)(unsigned long)scratch;
}

bool memsrv_lz4_there(void)
{
	return LZ4_compress_default && LZ4_decompress_safe;
}

void *memsrv_lz4_new(void)
{
	return (void *)(unsigned long)alloc_percpu(struct scratch);
}

void memsrv_lz4_free(void *scratch)
{
	free_percpu(of(scratch));
}

/* Puts a block of `most` bytes at the most in the page's place; returns its length, or 0 if it would be
 * longer, with the page as it was. */
unsigned int memsrv_lz4_compress(void *scratch, void *page, unsigned int most)
{
	struct scratch *own = get_cpu_ptr(of(scratch));
	int len = LZ4_compress_default(page, own->block, PAGE_SIZE, most, own->work);

	if (len > 0)
		memcpy(page, own->block, len);
	put_cpu_ptr(of(scratch));
	return len > 0 ? len : 0;
}

/* Whether the block is a page's, which is then there; else what is there is undefined. */
bool memsrv_lz4_decompress(const void *block, unsigned int len, void *page)
{
	return LZ4_decompress_safe(block, page, len, PAGE_SIZE) == PAGE_SIZE;
}
