-- broken: looks whether the stored time of an offline scan is earlier, then writes without a lock
-- scenario: offline-sync

create or replace function public.sync_offline_scan(p_ticket_id uuid, p_device_id text, p_scanned_at timestamptz)
  returns table (success boolean, already_scanned boolean, scanned_at timestamptz, error_message text)
language plpgsql security definer set search_path = public as
$$
#variable_conflict use_column
declare
  ticket tickets;
begin
  select * into ticket from tickets where id = p_ticket_id;
  if not found then
    return query select false, false, null::timestamptz, 'Ticket not found';
    return;
  end if;
  if ticket.is_used and ticket.scanned_at <= p_scanned_at then
    return query select false, true, ticket.scanned_at, null::text;
    return;
  end if;
  update tickets set is_used = true, status = 'used', scanned_at = p_scanned_at
   where id = p_ticket_id;
  insert into scan_logs (ticket_id, scan_result, device_id, scanned_at)
  values (p_ticket_id, 'synchronised', p_device_id, p_scanned_at);
  return query select true, false, p_scanned_at, null::text;
end
$$;

revoke execute on function public.sync_offline_scan from public, anon;
grant execute on function public.sync_offline_scan to authenticated, service_role;
