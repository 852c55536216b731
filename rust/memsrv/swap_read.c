// SPDX-License-Identifier: GPL-2.0-only
/*
 * The kernel's own read of a folio from its swap area, for a load that no server has answered.
 *
 * swap_read_folio() and swap_read_submit() are global, but exported to nobody, and their ENDBR is sealed:
 * a call through a pointer to their first byte is fatal on machines with IBT. Their addresses come from a
 * kprobe that is registered disabled and taken away at once, which points behind the ENDBR, and they are
 * called by static_call, which is a direct call.
 */
#include <linux/kprobes.h>
#include <linux/static_call.h>
#include <linux/swap.h>

#include "helpers.h"

/* Kernels before 7.3 have neither the header nor these functions' signatures. */
#if __has_include(<linux/swap_ops.h>) && IS_ENABLED(CONFIG_HAVE_STATIC_CALL)
#include <linux/swap_ops.h>
/* A tree of headers only does not have it; then nothing checks the next two lines. */
#if __has_include("mm/swap.h")
#include "mm/swap.h"
#endif

void swap_read_folio(struct swap_io_ctx *ctx, struct folio *folio);
void swap_read_submit(struct swap_io_ctx *ctx);

DEFINE_STATIC_CALL_NULL(memsrv_read_folio, swap_read_folio);
DEFINE_STATIC_CALL_NULL(memsrv_read_submit, swap_read_submit);

static void *address_of(const char *name)
{
	struct kprobe probe = { .symbol_name = name, .flags = KPROBE_FLAG_DISABLED };
	int err = register_kprobe(&probe);
	void *addr = probe.addr;

	if (err)
		return ERR_PTR(err);
	unregister_kprobe(&probe);
	return addr;
}

int memsrv_swap_read_prepare(void)
{
	void *folio = address_of("swap_read_folio");
	void *submit = address_of("swap_read_submit");

	if (IS_ERR(folio))
		return PTR_ERR(folio);
	if (IS_ERR(submit))
		return PTR_ERR(submit);
	static_call_update(memsrv_read_folio, folio);
	static_call_update(memsrv_read_submit, submit);
	return 0;
}

/*
 * Of a folio that is locked, in the swap cache and not up to date; the read unlocks it. The context is on
 * our stack, so that neither can be a tail call: our text is still there when they return.
 */
void memsrv_swap_read(struct folio *folio)
{
	struct swap_io_ctx ctx = {};

	/* As every caller of swap_read_folio() has one: our hook is entered again. */
	folio_get(folio);
	static_call(memsrv_read_folio)(&ctx, folio);
	static_call(memsrv_read_submit)(&ctx);
	folio_put(folio);
}
#else
int memsrv_swap_read_prepare(void)
{
	return -EOPNOTSUPP;
}

void memsrv_swap_read(struct folio *folio)
{
}
#endif
