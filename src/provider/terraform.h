/*-------------------------------------------------------------------------
 *
 * terraform.h
 *	  Tells a user of Terraform what to change after an operation.
 *
 * A cloud's replica may also stand in somebody's Terraform configuration,
 * which knows nothing of what was done here.  An event's detail then has the
 * commands to run (state rm, import) and the lines to add to or to remove from
 * the configuration.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REPLICA_CTL_PROVIDER_TERRAFORM_H
#define REPLICA_CTL_PROVIDER_TERRAFORM_H

#include "lib/stringinfo.h"
#include "nodes/pg_list.h"

#include "net/json.h"
#include "net/map.h"

typedef struct RctlTerraform
{
	List	   *commands;		/* of char * */
	StringInfoData add;			/* HCL */
	StringInfoData remove;		/* HCL */
	int			depth;			/* of the open blocks */
	int			first;			/* where attributes begin that are not aligned
								 * yet; -1: nowhere */
} RctlTerraform;

extern RctlTerraform *rctl_terraform_make(void);

/*
 * "aws_db_instance.orders_replica": the address that the option "terraform"
 * (an object; may be missing) has under key, else one made of type and name.
 */
extern char *rctl_terraform_address(const RctlMap *options, const char *key, const char *type, const char *name);

/* terraform import ADDRESS ID; terraform state rm ADDRESS */
extern void rctl_terraform_import(RctlTerraform *terraform, const char *address, const char *id);
extern void rctl_terraform_forget(RctlTerraform *terraform, const char *address);

/*
 * HCL, written to out (&terraform->add or ->remove): a resource by its
 * address, blocks, attributes.  A NULL value writes nothing.
 */
extern void rctl_terraform_resource(RctlTerraform *terraform, StringInfo out, const char *address);
extern void rctl_terraform_block(RctlTerraform *terraform, StringInfo out, const char *name);
extern void rctl_terraform_text(RctlTerraform *terraform, StringInfo out, const char *name, const char *value);

/* A number, a boolean, or an expression as it stands. */
extern void rctl_terraform_raw(RctlTerraform *terraform, StringInfo out, const char *name, const char *value);

/* A JSON object as a block, a value as an attribute, and so on inwards. */
extern void rctl_terraform_json(RctlTerraform *terraform, StringInfo out, const char *name, const RctlJson *json);
extern void rctl_terraform_end(RctlTerraform *terraform, StringInfo out);

/* {"commands": [...], "add": "...", "remove": "..."}, without what is empty; for rctl_map_set_json(). */
extern char *rctl_terraform_detail(const RctlTerraform *terraform);

#endif							/* REPLICA_CTL_PROVIDER_TERRAFORM_H */
