-- correct: one statement compares the stored time of an offline scan with the new one and keeps the earlier
-- scenario: offline-sync

create or replace function public.sync_offline_scan(p_ticket_id uuid, p_device_id text, p_scanned_at timestamptz)
  returns table (success boolean, already_scanned boolean, scanned_at timestamptz, error_message text)
language plpgsql security definer set search_path = public as
$$
#variable_conflict use_column
declare
  ticket tickets;
begin
  update tickets set is_used = true, status = 'used', scanned_at = p_scanned_at
   where id = p_ticket_id
     and (is_used is distinct from true or scanned_at > p_scanned_at)
   returning * into ticket;
  if not found then
    select * into ticket from tickets where id = p_ticket_id;
    if not found then
      return query select false, false, null::timestamptz, 'Ticket not found';
      return;
    end if;
  end if;
  insert into scan_logs (ticket_id, scan_result, device_id, scanned_at)
  values (p_ticket_id, 'synchronised', p_device_id, p_scanned_at);
  return query select ticket.scanned_at = p_scanned_at, ticket.scanned_at < p_scanned_at, ticket.scanned_at, null::text;
end
$$;

revoke execute on function public.sync_offline_scan from public, anon;
grant execute on function public.sync_offline_scan to authenticated, service_role;
