/*-------------------------------------------------------------------------
 *
 * config.c
 *	  This server's postgresql.auto.conf.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "nodes/makefuncs.h"
#include "nodes/parsenodes.h"
#include "utils/guc.h"

#include "primary/config.h"

void
rctl_alter_system(const char *name, const char *value)
{
	AlterSystemStmt *stmt = makeNode(AlterSystemStmt);

	stmt->setstmt = makeNode(VariableSetStmt);
	stmt->setstmt->name = pstrdup(name);
	stmt->setstmt->kind = value ? VAR_SET_VALUE : VAR_RESET;
	if (value)
	{
		A_Const    *constant = makeNode(A_Const);

		constant->val.sval.type = T_String;
		constant->val.sval.sval = pstrdup(value);
		constant->location = -1;
		stmt->setstmt->args = list_make1(constant);
	}
	AlterSystemSetConfigFile(stmt);
}
