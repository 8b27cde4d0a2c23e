/*-------------------------------------------------------------------------
 *
 * aiven_terraform.c
 *	  What a user of Terraform has to change after an operation at Aiven.
 *
 * In Terraform a replica is two resources: the service, aiven_pg with a block
 * service_integrations, and the aiven_service_integration that follows it.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "provider/aiven.h"
#include "provider/terraform.h"

static void
put_integration(RctlTerraform *terraform, StringInfo out, const RctlReplica *replica, const char *address)
{
	rctl_terraform_resource(terraform, out, address);
	rctl_terraform_text(terraform, out, "project", rctl_map_get(replica->facts, "project"));
	rctl_terraform_text(terraform, out, "integration_type", "read_replica");
	rctl_terraform_text(terraform, out, "source_service_name", rctl_map_get(replica->facts, "source_service"));
	rctl_terraform_text(terraform, out, "destination_service_name", rctl_map_get(replica->facts, "service_name"));
	rctl_terraform_end(terraform, out);
}

static void
put_block_of_source(RctlTerraform *terraform, StringInfo out, const RctlReplica *replica)
{
	rctl_terraform_block(terraform, out, "service_integrations");
	rctl_terraform_text(terraform, out, "integration_type", "read_replica");
	rctl_terraform_text(terraform, out, "source_service_name", rctl_map_get(replica->facts, "source_service"));
	rctl_terraform_end(terraform, out);
}

static void
put_maintenance(RctlTerraform *terraform, StringInfo out, const RctlMap *options)
{
	const char *object = rctl_map_get(options, "maintenance");
	RctlMap    *window = object ? rctl_map_from_json(object, "maintenance") : rctl_map_make();
	const char *dow = rctl_map_get(options, "maintenance_window_dow");
	const char *time = rctl_map_get(options, "maintenance_window_time");

	rctl_terraform_text(terraform, out, "maintenance_window_dow", dow ? dow : rctl_map_get(window, "dow"));
	rctl_terraform_text(terraform, out, "maintenance_window_time", time ? time : rctl_map_get(window, "time"));
}

static void
put_service(RctlTerraform *terraform, StringInfo out, const RctlReplica *replica, const char *address)
{
	const RctlMap *options = replica->options;
	const char *config = rctl_aiven_option(options, "user_config");
	const char *tags = rctl_map_get(options, "tags");
	const char *vpc = rctl_map_get(options, "project_vpc_id");
	const char *megabytes = rctl_map_get(options, "disk_space_mb");
	char	   *problem;

	rctl_terraform_resource(terraform, out, address);
	rctl_terraform_text(terraform, out, "project", rctl_map_get(replica->facts, "project"));
	rctl_terraform_text(terraform, out, "service_name", rctl_map_get(replica->facts, "service_name"));
	rctl_terraform_text(terraform, out, "cloud_name", rctl_map_get(replica->facts, "cloud"));
	rctl_terraform_text(terraform, out, "plan", rctl_map_get(replica->facts, "plan"));
	put_maintenance(terraform, out, options);
	if (vpc && strcmp(vpc, "public") != 0)
		rctl_terraform_text(terraform, out, "project_vpc_id", strchr(vpc, '/') ? vpc :
							psprintf("%s/%s", rctl_map_get_default(replica->facts, "project", ""), vpc));
	rctl_terraform_text(terraform, out, "disk_space", megabytes ? psprintf("%sMiB", megabytes) :
						rctl_map_get(options, "disk_space"));
	rctl_terraform_raw(terraform, out, "termination_protection", rctl_map_get(options, "termination_protection"));
	put_block_of_source(terraform, out, replica);
	if (config)
		rctl_terraform_json(terraform, out, "pg_user_config", rctl_json_parse(config, strlen(config), &problem));
	if (tags)
	{
		ListCell   *lc;

		foreach(lc, rctl_map_from_json(tags, "tags")->entries)
		{
			RctlMapEntry *entry = lfirst(lc);

			rctl_terraform_block(terraform, out, "tag");
			rctl_terraform_text(terraform, out, "key", entry->key);
			rctl_terraform_text(terraform, out, "value", entry->value);
			rctl_terraform_end(terraform, out);
		}
	}
	rctl_terraform_end(terraform, out);
}

char *
rctl_aiven_terraform(RctlOp *op, RctlOpKind kind)
{
	const RctlReplica *replica = op->replica;
	RctlTerraform *terraform = rctl_terraform_make();
	const char *name = rctl_map_get_default(replica->facts, "service_name", replica->name);
	const char *project = rctl_map_get_default(replica->facts, "project", "");
	const char *integration_id = rctl_map_get(replica->facts, "integration_id");
	char	   *service = rctl_terraform_address(replica->options, "service", "aiven_pg", name);
	char	   *integration = rctl_terraform_address(replica->options, "integration", "aiven_service_integration", name);

	switch (kind)
	{
		case RCTL_OP_CREATE:
		case RCTL_OP_ATTACH:
			rctl_terraform_import(terraform, service, psprintf("%s/%s", project, name));
			if (integration_id)
				rctl_terraform_import(terraform, integration, psprintf("%s/%s", project, integration_id));
			put_service(terraform, &terraform->add, replica, service);
			put_integration(terraform, &terraform->add, replica, integration);
			break;
		case RCTL_OP_PROMOTE:
		case RCTL_OP_SWITCHOVER:
			rctl_terraform_forget(terraform, integration);
			put_integration(terraform, &terraform->remove, replica, integration);
			rctl_terraform_resource(terraform, &terraform->remove, service);
			put_block_of_source(terraform, &terraform->remove, replica);
			rctl_terraform_raw(terraform, &terraform->remove, "depends_on", "[ the source ]");
			rctl_terraform_end(terraform, &terraform->remove);
			break;
		default:
			rctl_terraform_forget(terraform, integration);
			rctl_terraform_forget(terraform, service);
			put_integration(terraform, &terraform->remove, replica, integration);
			put_service(terraform, &terraform->remove, replica, service);
			break;
	}
	return rctl_terraform_detail(terraform);
}
