/*-------------------------------------------------------------------------
 *
 * check.c
 *	  Data checksums, verified on the way.
 *
 * The server writes while we read, so that a page can be torn: half old, half
 * new.  WAL replay mends it, as its record with a full image is after the
 * start of the backup.  A page that does not verify is read again a few
 * times; one whose LSN is beyond the start of the backup will be replayed
 * and is not looked at.  What stays bad was bad on disk.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres_fe.h"

#include <time.h>
#include <unistd.h>

#include "storage/bufpage.h"
#include "storage/checksum.h"
#include "storage/checksum_impl.h"

#include "copier/copier.h"

#define REREADS 5
#define REREAD_MS 10

/* So many bad blocks are named. */
#define BAD_BLOCKS_NAMED 10

static bool
page_is_good(char *page, BlockNumber block)
{
	PageHeader	header = (PageHeader) page;

	if (PageIsNew((Page) page))
		return true;
	if (PageXLogRecPtrGet(header->pd_lsn) >= rctl_copy_options.start)
		return true;
	return pg_checksum_page(page, block) == header->pd_checksum;
}

static void
verify_page(RctlCopyFile *file, char *page, off_t offset)
{
	BlockNumber block = file->segment * ((BlockNumber) RELSEG_SIZE) + (BlockNumber) (offset / BLCKSZ);
	struct timespec pause = {.tv_nsec = REREAD_MS * 1000000L};

	for (int i = 0; !page_is_good(page, block); i++)
	{
		uint64		bad;

		if (i < REREADS)
		{
			nanosleep(&pause, NULL);
			if (pg_pread(file->in, page, BLCKSZ, offset) != BLCKSZ)
				return;			/* truncated meanwhile */
			if (page_is_good(page, block))
			{
				rctl_copy_counters.torn_blocks++;
				return;
			}
			continue;
		}
		if (rctl_copy_options.verify == RCTL_VERIFY_FAIL)
			rctl_copy_fail("XX001", 0, "checksum of block %u in file \"%s\" is wrong", block, file->source);
		bad = ++rctl_copy_counters.bad_blocks;
		if (bad <= BAD_BLOCKS_NAMED)
			rctl_copy_note(rctl_copy_format("bad block " UINT64_FORMAT, bad),
						   "The checksum of block %u in file \"%s\" is wrong.", block, file->source);
		return;
	}
}

void
rctl_copy_verify(RctlCopyFile *file, char *buffer, size_t length, off_t offset)
{
	if (rctl_copy_options.verify == RCTL_VERIFY_OFF || !file->numbered)
		return;
	for (size_t at = 0; at + BLCKSZ <= length; at += BLCKSZ)
		verify_page(file, buffer + at, offset + at);
}
